// Attention on Hopper's tensor cores, groups of four warps with 64 queries each. The including file says how many QUERIES a
// block has and whether they OVERLAP.
//
// A thread of the last group copies tiles of keys and values, SLOTS ahead of those that all groups have left; no warp does
// nothing but that, so that every register is there for a group. While one group weighs keys, others multiply. If groups OVERLAP, that
// is also when the values of their tile before are multiplied: fewer groups then keep the tensor cores busy, but each takes
// more registers, for its scores, weights and sums are in use at once.
#pragma once
#include "attention.cuh"
#include "wgmma.cuh"

constexpr u32 KEYS = 64; // of a tile
constexpr u32 DIM = 64;  // channels of a head
constexpr u32 SLOTS = 8; // for tiles
constexpr u32 APART = 4; // tiles that the last group may be ahead of others before it waits
constexpr u32 GROUP = 128, GROUPS = QUERIES / 64;
static_assert(THREADS == GROUP * GROUPS && DIM == TILE_K && KEYS == COPY, "a group has 64 queries, a copy 64 rows of 64 channels");

struct Tiles {
    alignas(1024) u16 queries[QUERIES * DIM];
    alignas(1024) u16 keys[SLOTS][KEYS * DIM];
    alignas(1024) u16 values[SLOTS][KEYS * DIM];
    TileBarrier asked, full[SLOTS], empty[SLOTS]; // asked: the queries are there
};

// Whether this thread copies.
DEVICE bool copies() { return threadIdx.x == THREADS - GROUP; }

// The tiles of a head: those of the image's keys come first, then those of the context.
struct Order {
    const Head& head;
    u32 own, tiles;
    DEVICE explicit Order(const Head& of) : head(of), own(div_up(of.own, KEYS)), tiles(own + div_up(of.context, KEYS)) {}
    DEVICE bool of_image(u32 tile) const { return tile < own; }
    DEVICE u32 first(u32 tile) const { return (of_image(tile) ? tile : tile - own) * KEYS; }
    DEVICE u32 count(u32 tile) const { return of_image(tile) ? head.own : head.context; }
};

// Asks for a tile.
DEVICE void ask(Tiles& s, const Maps& maps, const Order& order, u32 tile) {
    const u32 slot = tile % SLOTS, channels = order.head.channels, first = order.first(tile);
    const u32 keys = blockIdx.y * DIM + (order.of_image(tile) ? channels : 0);
    const TensorMap& map = maps.of[order.of_image(tile) ? X : CONTEXT];
    s.full[slot].arrive_expecting(2 * KEYS * DIM * sizeof(u16));
    copy_tile(s.keys[slot], map, keys, first, blockIdx.z, s.full[slot]);
    copy_tile(s.values[slot], map, keys + channels, first, blockIdx.z, s.full[slot]);
}

// Asks for the queries and the first tiles.
DEVICE void begin(Tiles& s, const Maps& maps, const Order& order) {
    s.asked.arrive_expecting(QUERIES * DIM * sizeof(u16));
    for (u32 i = 0; i < QUERIES; i += COPY) {
        copy_tile(&s.queries[i * DIM], maps.of[X], blockIdx.y * DIM, blockIdx.x * QUERIES + i, blockIdx.z, s.asked);
    }
    for (u32 tile = 0; tile < min_of(SLOTS, order.tiles); ++tile) ask(s, maps, order, tile);
}

// This warp has left a tile; the slot of one that all have left is filled anew.
DEVICE void leave(Tiles& s, const Maps& maps, const Order& order, u32 tile) {
    __syncwarp();
    if (lane() == 0) s.empty[tile % SLOTS].arrive();
    const u32 free = tile - APART;
    if (copies() && tile >= APART && free + SLOTS < order.tiles) {
        s.empty[free % SLOTS].wait(free / SLOTS % 2);
        ask(s, maps, order, free + SLOTS);
    }
    __syncwarp();
}

// The softmax of a thread's two rows, lane() / 4 and 8 rows on, of the keys so far.
struct Softmax {
    float total[2] = {}, largest[2] = {-INFINITY, -INFINITY};

    // From scores to weights; what sums so far are to be scaled by, as the largest score may have grown.
    DEVICE float2 weigh(float (&scores)[KEYS / 2], float factor) {
        float shrink[2];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float most = largest[half];
#pragma unroll
            for (u32 j = 0; j < KEYS / 4; ++j) most = fmaxf(most, scores[j / 2 * 4 + half * 2 + j % 2]);
            // Every query sees its first key, so that this is finite from the first tile on.
            most = row_max(most);
            shrink[half] = power_of_two((largest[half] - most) * factor);
            const float offset = most * factor;
            largest[half] = most;
            total[half] *= shrink[half]; // of this lane's keys; lanes are added up at the end
#pragma unroll
            for (u32 j = 0; j < KEYS / 4; ++j) {
                float& score = scores[j / 2 * 4 + half * 2 + j % 2];
                score = power_of_two(score * factor - offset);
                total[half] += score;
            }
        }
        return {shrink[0], shrink[1]};
    }
};

// The queries of one group.
DEVICE void attend(const Args& a, const Maps& maps, Tiles& s, const Order& order, u32 group) {
    const Head& head = order.head;
    const u32 token = blockIdx.x * QUERIES + group * 64 + warp() % 4 * 16 + lane() / 4;
    // Scores are powers of two, which the GPU computes; 1.44… is log2(e).
    const float factor = 1.4426950408889634f / sqrtf(float(DIM));
    Softmax softmax;
    float scores[KEYS / 2], sums[DIM / 2];
    u32 weights[KEYS / 16][4];
#pragma unroll
    for (u32 i = 0; i < DIM / 2; ++i) sums[i] = 0.0f;
    const auto start_scores = [&](u32 tile) {
        s.full[tile % SLOTS].wait(tile / SLOTS % 2);
        // The product does not need it, but so no register keeps what was there.
#pragma unroll
        for (u32 i = 0; i < KEYS / 2; ++i) scores[i] = 0.0f;
        products_fence();
#pragma unroll
        for (u32 k = 0; k < DIM / 16; ++k) {
            start_product(scores, &s.queries[group * 64 * DIM + k * 16], &s.keys[tile % SLOTS][k * 16], k > 0);
        }
        products_commit();
    };
    const auto start_sums = [&](u32 tile) {
        pin(sums);
        products_fence();
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; ++k) {
            start_product<true>(sums, weights[k], &s.values[tile % SLOTS][k * 16 * DIM], true);
        }
        products_commit();
    };
    const auto weigh = [&](u32 tile) {
        const u32 first = order.first(tile), count = order.count(tile);
        const bool causal = head.causal && order.of_image(tile);
        if (causal || count - first < KEYS) {
#pragma unroll
            for (u32 i = 0; i < KEYS / 2; ++i) {
                const u32 key = first + i / 4 * 8 + lane() % 4 * 2 + i % 2;
                if (key >= count || (causal && key > token + i / 2 % 2 * 8)) scores[i] = -INFINITY;
            }
        }
        return softmax.weigh(scores, factor);
    };
    const auto round = [&] {
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; ++k) {
            for (u32 j = 0; j < 4; ++j) weights[k][j] = to_bf16(scores[k * 8 + j * 2], scores[k * 8 + j * 2 + 1]);
        }
    };

    s.asked.wait(0);
    start_scores(0);
    products_wait<0>();
    pin(scores);
    weigh(0);
    round();
    for (u32 tile = 1; tile < order.tiles; ++tile) {
        if (!OVERLAP) {
            start_sums(tile - 1);
            products_wait<0>();
            pin(sums);
            leave(s, maps, order, tile - 1);
        }
        start_scores(tile);
        if (OVERLAP) start_sums(tile - 1);
        products_wait<OVERLAP>();
        pin(scores);
        const float2 shrink = weigh(tile);
        if (OVERLAP) {
            products_wait<0>();
            pin(sums);
            leave(s, maps, order, tile - 1);
        }
#pragma unroll
        for (u32 i = 0; i < DIM / 2; ++i) sums[i] *= i / 2 % 2 ? shrink.y : shrink.x;
        round();
    }
    start_sums(order.tiles - 1);
    products_wait<0>();
    pin(sums);

#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const float scale = 1.0f / row_sum(softmax.total[half]);
        const u32 row = token + half * 8;
#pragma unroll
        for (u32 j = 0; j < DIM / 8; j += 2) {
            Quad y = row_quad(&sums[4 * j + 2 * half]);
            for (u32 k = 0; k < QUAD; ++k) y[k] *= scale;
            const u32 column = blockIdx.y * DIM + (j + lane() % 2) * 8 + lane() % 4 / 2 * 4;
            if (row < head.tokens) store_quad(a, (blockIdx.z * head.tokens + row) * head.channels + column, y);
        }
    }
}

// A block's queries.
DEVICE void attention_on_tiles(const Args& a, const Maps& maps, Tiles& s) {
    const Head head(a, blockIdx.y, blockIdx.z);
    const Order order(head);
    if (copies()) {
        s.asked.init(1);
        for (u32 i = 0; i < SLOTS; ++i) s.full[i].init(1), s.empty[i].init(4 * GROUPS);
        show_barriers();
        begin(s, maps, order);
    }
    __syncthreads();
    attend(a, maps, s, order, threadIdx.x / GROUP);
}
