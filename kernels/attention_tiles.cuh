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
// If the last tile has no more than these, no more are multiplied.
constexpr u32 FEW = 8;   // Stage B: the context's four
constexpr u32 SOME = 32; // Stage C: the last 21 of the context's 85
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
    // How many keys of the last tile are multiplied, if not all: else 0, and for a first tile.
    DEVICE u32 narrow() const {
        const u32 left = count(tiles - 1) - first(tiles - 1);
        return tiles == 1 || left > SOME ? 0 : left > FEW ? SOME : FEW;
    }
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
    template <u32 COUNT> DEVICE float2 weigh(float (&scores)[COUNT], float factor) {
        float shrink[2];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float most = largest[half];
#pragma unroll
            for (u32 j = 0; j < COUNT / 2; ++j) most = fmaxf(most, scores[j / 2 * 4 + half * 2 + j % 2]);
            // Every query sees its first key, so that this is finite from the first tile on.
            most = row_max(most);
            shrink[half] = power_of_two((largest[half] - most) * factor);
            const float offset = most * factor;
            largest[half] = most;
            total[half] *= shrink[half]; // of this lane's keys; lanes are added up at the end
#pragma unroll
            for (u32 j = 0; j < COUNT / 2; ++j) {
                float& score = scores[j / 2 * 4 + half * 2 + j % 2];
                score = power_of_two(score * factor - offset);
                total[half] += score;
            }
        }
        return {shrink[0], shrink[1]};
    }
};

// A group's queries and what it does with a tile. Of that, COLUMNS keys are multiplied: a thread has half as many scores.
struct Group {
    Tiles& s;
    const Maps& maps;
    const Order& order;
    const u32 first; // of its queries in the block
    Softmax softmax;
    float sums[DIM / 2];
    u32 weights[KEYS / 16][4];
    u32 queries[DIM / 16][4]; // for few keys alone

    DEVICE Group(Tiles& tiles, const Maps& of, const Order& o) : s(tiles), maps(of), order(o), first(threadIdx.x / GROUP * 64) {
#pragma unroll
        for (u32 i = 0; i < DIM / 2; ++i) sums[i] = 0.0f;
    }

    // This thread's first row.
    DEVICE u32 token() const { return blockIdx.x * QUERIES + first + warp() % 4 * 16 + lane() / 4; }

    template <u32 COUNT> DEVICE void start_scores(float (&scores)[COUNT], u32 tile) {
        const u16* keys = s.keys[tile % SLOTS];
        s.full[tile % SLOTS].wait(tile / SLOTS % 2);
        // The product does not need it, but so no register keeps what was there.
#pragma unroll
        for (u32 i = 0; i < COUNT; ++i) scores[i] = 0.0f;
        if constexpr (2 * COUNT < KEYS) {
            // For each product shared memory would give its queries: that takes longer than to multiply few keys.
#pragma unroll
            for (u32 k = 0; k < DIM / 16; ++k) {
                load_matrices(queries[k], &s.queries[tile_place(first + warp() % 4 * 16 + lane() % 16, 2 * k + lane() / 16)]);
            }
            products_fence();
#pragma unroll
            for (u32 k = 0; k < DIM / 16; ++k) start_product(scores, queries[k], &keys[k * 16], k > 0);
        } else {
            products_fence();
#pragma unroll
            for (u32 k = 0; k < DIM / 16; ++k) start_product(scores, &s.queries[first * DIM + k * 16], &keys[k * 16], k > 0);
        }
        products_commit();
    }

    template <u32 COLUMNS> DEVICE void start_sums(u32 tile) {
        pin(sums);
        products_fence();
#pragma unroll
        for (u32 k = 0; k < (COLUMNS + 15) / 16; ++k) {
            start_product<true>(sums, weights[k], &s.values[tile % SLOTS][k * 16 * DIM], true);
        }
        products_commit();
    }

    // Until nothing is under way.
    DEVICE void finish_sums() {
        products_wait<0>();
        pin(sums);
    }

    template <u32 COUNT> DEVICE float2 weigh(float (&scores)[COUNT], u32 tile) {
        const u32 from = order.first(tile), count = order.count(tile);
        const bool causal = order.head.causal && order.of_image(tile);
        if (causal || count - from < 2 * COUNT) {
#pragma unroll
            for (u32 i = 0; i < COUNT; ++i) {
                const u32 key = from + i / 4 * 8 + lane() % 4 * 2 + i % 2;
                const bool unseen = (key >= count) | (causal & (key > token() + i / 2 % 2 * 8));
                scores[i] = unseen ? -INFINITY : scores[i];
            }
        }
        // Scores are powers of two, which the GPU computes; 1.44… is log2(e).
        return softmax.weigh(scores, 1.4426950408889634f / sqrtf(float(DIM)));
    }

    // Weights as a factor, with zeros where its 16 columns have no keys.
    template <u32 COUNT> DEVICE void round(const float (&scores)[COUNT]) {
#pragma unroll
        for (u32 i = 0; i < (COUNT + 7) / 8 * 4; ++i) {
            weights[i / 4][i % 4] = 2 * i < COUNT ? to_bf16(scores[2 * i], scores[2 * i + 1]) : 0;
        }
    }

    // The weights of the first tile.
    DEVICE void first_tile() {
        float scores[KEYS / 2];
        start_scores(scores, 0);
        products_wait<0>();
        pin(scores);
        weigh(scores, 0);
        round(scores);
    }

    // The values of the tile before, and this one's weights.
    template <u32 COLUMNS> DEVICE void next_tile(u32 tile) {
        float scores[COLUMNS / 2];
        if (!OVERLAP) {
            start_sums<KEYS>(tile - 1);
            finish_sums();
            leave(s, maps, order, tile - 1);
        }
        start_scores(scores, tile);
        if (OVERLAP) start_sums<KEYS>(tile - 1);
        products_wait<OVERLAP>();
        pin(scores);
        const float2 shrink = weigh(scores, tile);
        if (OVERLAP) {
            finish_sums();
            leave(s, maps, order, tile - 1);
        }
#pragma unroll
        for (u32 i = 0; i < DIM / 2; ++i) sums[i] *= i / 2 % 2 ? shrink.y : shrink.x;
        round(scores);
    }

    // The values of the last two tiles, of which the last is narrow.
    template <u32 COLUMNS> DEVICE void last_tile() {
        next_tile<COLUMNS>(order.tiles - 1);
        start_sums<COLUMNS>(order.tiles - 1);
        finish_sums();
    }

    DEVICE void store(const Args& a) {
        const Head& head = order.head;
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const float scale = 1.0f / row_sum(softmax.total[half]);
            const u32 row = token() + half * 8;
#pragma unroll
            for (u32 j = 0; j < DIM / 8; j += 2) {
                Quad y = row_quad(&sums[4 * j + 2 * half]);
                for (u32 k = 0; k < QUAD; ++k) y[k] *= scale;
                const u32 column = blockIdx.y * DIM + (j + lane() % 2) * 8 + lane() % 4 / 2 * 4;
                if (row < head.tokens) store_quad(a, (blockIdx.z * head.tokens + row) * head.channels + column, y);
            }
        }
    }
};

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
    Group group(s, maps, order);
    s.asked.wait(0);
    group.first_tile();
    const u32 narrow = order.narrow();
    for (u32 tile = 1; tile < order.tiles - (narrow > 0); ++tile) group.next_tile<KEYS>(tile);
    if (narrow == FEW) {
        group.last_tile<FEW>();
    } else if (narrow == SOME) {
        group.last_tile<SOME>();
    } else {
        group.start_sums<KEYS>(order.tiles - 1);
        group.finish_sums();
    }
    group.store(a);
}
