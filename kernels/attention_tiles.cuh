// Attention on Hopper: warpgroups with 64 queries each share a ring of key and value tiles. The including file defines
// QUERIES, the number per block, and whether warpgroups OVERLAP softmax and P V.
//
// There is no dedicated producer warp, so that all registers go to the warpgroups: one thread of the last one issues the TMA
// loads, SLOTS tiles ahead of what all warpgroups have consumed. While one warpgroup computes a softmax, others use the
// tensor cores. With OVERLAP a warpgroup also runs the P V product of its previous tile during its softmax. Then fewer
// warpgroups keep the tensor cores busy, but each needs more registers: scores, weights and accumulators are all live.
#pragma once
#include "attention.cuh"
#include "wgmma.cuh"

constexpr u32 KEYS = 64; // per tile
// If the last tile has at most this many keys, no more than these are multiplied.
constexpr u32 FEW = 8;   // for Stage B, whose context has four keys
constexpr u32 SOME = 32; // for Stage C, whose context has 85 keys, 21 of them in the last tile
constexpr u32 DIM = 64;  // channels per head
constexpr u32 SLOTS = 8; // pipeline stages
constexpr u32 APART = 4; // tiles the producing warpgroup may be ahead of the slowest one
constexpr u32 GROUP = 128, GROUPS = QUERIES / 64;
static_assert(THREADS == GROUP * GROUPS && DIM == TILE_K && KEYS == COPY, "a warpgroup has 64 queries, a copy 64 rows of 64 channels");

struct Tiles {
    alignas(1024) u16 queries[QUERIES * DIM];
    alignas(1024) u16 keys[SLOTS][KEYS * DIM];
    alignas(1024) u16 values[SLOTS][KEYS * DIM];
    TileBarrier asked, full[SLOTS], empty[SLOTS]; // asked: the queries have landed
};

// Whether this thread issues the TMA loads.
DEVICE bool copies() { return threadIdx.x == THREADS - GROUP; }

// The sequence of key tiles of a head: first the image's own keys, then those of its context.
struct Order {
    const Head& head;
    u32 own, tiles;
    DEVICE explicit Order(const Head& of) : head(of), own(div_up(of.own, KEYS)), tiles(own + div_up(of.context, KEYS)) {}
    DEVICE bool of_image(u32 tile) const { return tile < own; }
    DEVICE u32 first(u32 tile) const { return (of_image(tile) ? tile : tile - own) * KEYS; }
    DEVICE u32 count(u32 tile) const { return of_image(tile) ? head.own : head.context; }
    // How many keys of the last tile are multiplied if it is narrow; 0 if it is multiplied whole, or is the first tile.
    DEVICE u32 narrow() const {
        const u32 left = count(tiles - 1) - first(tiles - 1);
        return tiles == 1 || left > SOME ? 0 : left > FEW ? SOME : FEW;
    }
};

// Issues the loads of a tile of keys and values.
DEVICE void ask(Tiles& s, const Maps& maps, const Order& order, u32 tile) {
    const u32 slot = tile % SLOTS, channels = order.head.channels, first = order.first(tile);
    const u32 keys = blockIdx.y * DIM + (order.of_image(tile) ? channels : 0);
    const TensorMap& map = maps.of[order.of_image(tile) ? X : CONTEXT];
    s.full[slot].arrive_expecting(2 * KEYS * DIM * sizeof(u16));
    copy_tile(s.keys[slot], map, keys, first, blockIdx.z, s.full[slot]);
    copy_tile(s.values[slot], map, keys + channels, first, blockIdx.z, s.full[slot]);
}

// Issues the loads of the queries and of the first tiles.
DEVICE void begin(Tiles& s, const Maps& maps, const Order& order) {
    s.asked.arrive_expecting(QUERIES * DIM * sizeof(u16));
    for (u32 i = 0; i < QUERIES; i += COPY) {
        copy_tile(&s.queries[i * DIM], maps.of[X], blockIdx.y * DIM, blockIdx.x * QUERIES + i, blockIdx.z, s.asked);
    }
    for (u32 tile = 0; tile < min_of(SLOTS, order.tiles); ++tile) ask(s, maps, order, tile);
}

// Releases a tile for this warp. The producing thread then refills the slot of a tile that all warps have released.
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

// The online softmax of a thread's two rows, lane() / 4 and lane() / 4 + 8.
struct Softmax {
    float total[2] = {}, largest[2] = {-INFINITY, -INFINITY};

    // Turns scores into weights. Returns the factors by which accumulators must be rescaled, as the maximum may have grown.
    template <u32 COUNT> DEVICE float2 weigh(float (&scores)[COUNT], float factor) {
        float shrink[2];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float most = largest[half];
#pragma unroll
            for (u32 j = 0; j < COUNT / 2; ++j) most = fmaxf(most, scores[j / 2 * 4 + half * 2 + j % 2]);
            // Every query attends to its first key, so this is finite from the first tile on.
            most = row_max(most);
            shrink[half] = power_of_two((largest[half] - most) * factor);
            const float offset = most * factor;
            largest[half] = most;
            total[half] *= shrink[half]; // over this lane's keys; reduced over the lanes at the end
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

// A warpgroup's state. COLUMNS is the number of keys of a tile that are multiplied; a thread holds COLUMNS / 2 scores.
struct Group {
    Tiles& s;
    const Maps& maps;
    const Order& order;
    const u32 first; // its first query in the block
    Softmax softmax;
    float sums[DIM / 2];
    u32 weights[KEYS / 16][4];
    u32 queries[DIM / 16][4]; // A fragments, used for narrow tiles only

    DEVICE Group(Tiles& tiles, const Maps& of, const Order& o) : s(tiles), maps(of), order(o), first(threadIdx.x / GROUP * 64) {
#pragma unroll
        for (u32 i = 0; i < DIM / 2; ++i) sums[i] = 0.0f;
    }

    // The first of this thread's two queries.
    DEVICE u32 token() const { return blockIdx.x * QUERIES + first + warp() % 4 * 16 + lane() / 4; }

    template <u32 COUNT> DEVICE void start_scores(float (&scores)[COUNT], u32 tile) {
        const u16* keys = s.keys[tile % SLOTS];
        s.full[tile % SLOTS].wait(tile / SLOTS % 2);
        // The MMA ignores the old values, but zeroing tells the compiler that the registers need not be preserved.
#pragma unroll
        for (u32 i = 0; i < COUNT; ++i) scores[i] = 0.0f;
        if constexpr (2 * COUNT < KEYS) {
            // With few keys, reading Q from shared memory for each MMA would take longer than the MMA: use registers.
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

    // Waits until no MMA is in flight.
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
        // exp(s) is computed as 2^(s log2 e), for which the GPU has an instruction; 1.44… is log2(e).
        return softmax.weigh(scores, 1.4426950408889634f / sqrtf(float(DIM)));
    }

    // Rounds the weights to bf16 A fragments, with zeros for the missing keys of a 16-wide MMA step.
    template <u32 COUNT> DEVICE void round(const float (&scores)[COUNT]) {
#pragma unroll
        for (u32 i = 0; i < (COUNT + 7) / 8 * 4; ++i) {
            weights[i / 4][i % 4] = 2 * i < COUNT ? to_bf16(scores[2 * i], scores[2 * i + 1]) : 0;
        }
    }

    // Scores and softmax of the first tile.
    DEVICE void first_tile() {
        float scores[KEYS / 2];
        start_scores(scores, 0);
        products_wait<0>();
        pin(scores);
        weigh(scores, 0);
        round(scores);
    }

    // P V of the previous tile, scores and softmax of this one.
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

    // The last two tiles, the last of which is narrow.
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

// Attention for a block's queries.
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
