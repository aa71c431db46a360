// Attention on Hopper: warpgroups with 64 queries each share a ring of key and value tiles. The including file defines
// QUERIES, the number per block, and whether warpgroups OVERLAP softmax and P V.
//
// There is no dedicated producer warp, so that all registers go to the warpgroups: one thread of the last one issues the TMA
// loads, STAGES tiles ahead of what all warpgroups have consumed. While one warpgroup computes a softmax, others use the
// tensor cores. With OVERLAP a warpgroup also runs the P V product of its previous tile during its softmax. Then fewer
// warpgroups keep the tensor cores busy, but each needs more registers: scores, weights and accumulators are all live.
#pragma once
#include "attention.cuh"
#include "wgmma.cuh"

constexpr u32 KEYS = 64; // per tile
// If the last tile has at most this many keys, no more than these are multiplied.
constexpr u32 FEW = 8;      // for Stage B, whose context has four keys
constexpr u32 SOME = 32;    // for Stage C, whose context has 85 keys, 21 of them in the last tile
constexpr u32 DIM = 64;     // channels per head
constexpr u32 STAGES = 8;   // of keys and values in shared memory
constexpr u32 MAX_LEAD = 4; // tiles the producing warpgroup may be ahead of the slowest one
constexpr u32 WARPGROUP = 128, WARPGROUPS = QUERIES / 64;
static_assert(THREADS == WARPGROUP * WARPGROUPS, "a warpgroup has 64 queries");
static_assert(DIM == TILE_K && KEYS == COPY, "a TMA copy is 64 rows of 64 channels");

struct Tiles {
    alignas(1024) u16 queries[QUERIES * DIM];
    alignas(1024) u16 keys[STAGES][KEYS * DIM];
    alignas(1024) u16 values[STAGES][KEYS * DIM];
    TileBarrier queries_full, full[STAGES], empty[STAGES];
};

// Whether this thread issues the TMA loads.
DEVICE bool is_producer() { return threadIdx.x == THREADS - WARPGROUP; }

// The sequence of key tiles of a head: first the image's own keys, then those of its context.
struct KeyTiles {
    const Head& head;
    u32 own, tiles;
    DEVICE explicit KeyTiles(const Head& of) : head(of), own(div_up(of.own, KEYS)), tiles(own + div_up(of.context, KEYS)) {}
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
DEVICE void load_tile(Tiles& s, const Maps& maps, const KeyTiles& key_tiles, u32 tile) {
    const u32 stage = tile % STAGES, channels = key_tiles.head.channels, first = key_tiles.first(tile);
    const u32 keys = blockIdx.y * DIM + (key_tiles.of_image(tile) ? channels : 0);
    const TensorMap& map = maps.of[key_tiles.of_image(tile) ? X : CONTEXT];
    s.full[stage].arrive_expecting(2 * KEYS * DIM * sizeof(u16));
    copy_tile(s.keys[stage], map, keys, first, blockIdx.z, s.full[stage]);
    copy_tile(s.values[stage], map, keys + channels, first, blockIdx.z, s.full[stage]);
}

// Issues the loads of the queries and of the first tiles.
DEVICE void load_first(Tiles& s, const Maps& maps, const KeyTiles& key_tiles) {
    s.queries_full.arrive_expecting(QUERIES * DIM * sizeof(u16));
    for (u32 i = 0; i < QUERIES; i += COPY) {
        copy_tile(&s.queries[i * DIM], maps.of[X], blockIdx.y * DIM, blockIdx.x * QUERIES + i, blockIdx.z, s.queries_full);
    }
    for (u32 tile = 0; tile < min_of(STAGES, key_tiles.tiles); ++tile) load_tile(s, maps, key_tiles, tile);
}

// Releases a tile for this warp. The producing thread then refills the stage of a tile that all warps have released.
DEVICE void release(Tiles& s, const Maps& maps, const KeyTiles& key_tiles, u32 tile) {
    __syncwarp();
    if (lane() == 0) s.empty[tile % STAGES].arrive();
    const u32 free = tile - MAX_LEAD;
    if (is_producer() && tile >= MAX_LEAD && free + STAGES < key_tiles.tiles) {
        s.empty[free % STAGES].wait(free / STAGES % 2);
        load_tile(s, maps, key_tiles, free + STAGES);
    }
    __syncwarp();
}

// The online softmax of a thread's two rows, lane() / 4 and lane() / 4 + 8.
struct Softmax {
    float total[2] = {}, largest[2] = {-INFINITY, -INFINITY};

    // Online softmax: replaces scores by exponentials, and returns what the accumulators are multiplied by if a maximum grew.
    template <u32 COUNT> DEVICE float2 update(float (&scores)[COUNT], float factor) {
        float rescale[2];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float maximum = largest[half];
#pragma unroll
            for (u32 j = 0; j < COUNT / 2; ++j) maximum = fmaxf(maximum, scores[j / 2 * 4 + half * 2 + j % 2]);
            // Every query attends to its first key, so this is finite from the first tile on.
            maximum = row_max(maximum);
            rescale[half] = exp2_approx((largest[half] - maximum) * factor);
            const float offset = maximum * factor;
            largest[half] = maximum;
            total[half] *= rescale[half]; // over this lane's keys; reduced over the lanes at the end
#pragma unroll
            for (u32 j = 0; j < COUNT / 2; ++j) {
                float& score = scores[j / 2 * 4 + half * 2 + j % 2];
                score = exp2_approx(score * factor - offset);
                total[half] += score;
            }
        }
        return {rescale[0], rescale[1]};
    }
};

// A warpgroup's state. COLUMNS is the number of keys of a tile that are multiplied; a thread holds COLUMNS / 2 scores.
struct Warpgroup {
    Tiles& s;
    const Maps& maps;
    const KeyTiles& key_tiles;
    const u32 first; // its first query in the block
    Softmax softmax;
    float acc[DIM / 2];
    u32 weights[KEYS / 16][4];
    u32 queries[DIM / 16][4]; // A fragments, used for narrow tiles only

    DEVICE Warpgroup(Tiles& tiles, const Maps& of, const KeyTiles& keys)
        : s(tiles), maps(of), key_tiles(keys), first(threadIdx.x / WARPGROUP * 64) {
#pragma unroll
        for (u32 i = 0; i < DIM / 2; ++i) acc[i] = 0.0f;
    }

    // The first of this thread's two queries.
    DEVICE u32 token() const { return blockIdx.x * QUERIES + first + warp() % 4 * 16 + lane() / 4; }

    template <u32 COUNT> DEVICE void start_scores(float (&scores)[COUNT], u32 tile) {
        const u16* keys = s.keys[tile % STAGES];
        s.full[tile % STAGES].wait(tile / STAGES % 2);
        // The MMA ignores the old values, but zeroing tells the compiler that the registers need not be preserved.
#pragma unroll
        for (u32 i = 0; i < COUNT; ++i) scores[i] = 0.0f;
        if constexpr (2 * COUNT < KEYS) {
            // With few keys, reading Q from shared memory for each MMA would take longer than the MMA: use registers.
#pragma unroll
            for (u32 k = 0; k < DIM / 16; ++k) {
                load_matrices(queries[k], &s.queries[tile_place(first + warp() % 4 * 16 + lane() % 16, 2 * k + lane() / 16)]);
            }
            wgmma_fence();
#pragma unroll
            for (u32 k = 0; k < DIM / 16; ++k) start_wgmma(scores, queries[k], &keys[k * 16], k > 0);
        } else {
            wgmma_fence();
#pragma unroll
            for (u32 k = 0; k < DIM / 16; ++k) start_wgmma(scores, &s.queries[first * DIM + k * 16], &keys[k * 16], k > 0);
        }
        wgmma_commit();
    }

    template <u32 COLUMNS> DEVICE void start_values(u32 tile) {
        pin(acc);
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < (COLUMNS + 15) / 16; ++k) {
            start_wgmma<true>(acc, weights[k], &s.values[tile % STAGES][k * 16 * DIM], true);
        }
        wgmma_commit();
    }

    // Waits until no MMA is in flight.
    DEVICE void finish_values() {
        wgmma_wait<0>();
        pin(acc);
    }

    template <u32 COUNT> DEVICE float2 to_weights(float (&scores)[COUNT], u32 tile) {
        const u32 from = key_tiles.first(tile), count = key_tiles.count(tile);
        const bool causal = key_tiles.head.causal && key_tiles.of_image(tile);
        if (causal || count - from < 2 * COUNT) {
#pragma unroll
            for (u32 i = 0; i < COUNT; ++i) {
                const u32 key = from + i / 4 * 8 + lane() % 4 * 2 + i % 2;
                const bool masked = (key >= count) | (causal & (key > token() + i / 2 % 2 * 8));
                scores[i] = masked ? -INFINITY : scores[i];
            }
        }
        // exp(s) is computed as 2^(s log2 e), for which the GPU has an instruction; 1.44… is log2(e).
        return softmax.update(scores, 1.4426950408889634f / sqrtf(float(DIM)));
    }

    // Rounds the weights to bf16 A fragments, with zeros for the missing keys of a 16-wide MMA step.
    template <u32 COUNT> DEVICE void round_weights(const float (&scores)[COUNT]) {
#pragma unroll
        for (u32 i = 0; i < (COUNT + 7) / 8 * 4; ++i) {
            weights[i / 4][i % 4] = 2 * i < COUNT ? to_bf16(scores[2 * i], scores[2 * i + 1]) : 0;
        }
    }

    // Scores and softmax of the first tile.
    DEVICE void first_tile() {
        float scores[KEYS / 2];
        start_scores(scores, 0);
        wgmma_wait<0>();
        pin(scores);
        to_weights(scores, 0);
        round_weights(scores);
    }

    // P V of the previous tile, scores and softmax of this one.
    template <u32 COLUMNS> DEVICE void next_tile(u32 tile) {
        float scores[COLUMNS / 2];
        if (!OVERLAP) {
            start_values<KEYS>(tile - 1);
            finish_values();
            release(s, maps, key_tiles, tile - 1);
        }
        start_scores(scores, tile);
        if (OVERLAP) start_values<KEYS>(tile - 1);
        wgmma_wait<OVERLAP>();
        pin(scores);
        const float2 rescale = to_weights(scores, tile);
        if (OVERLAP) {
            finish_values();
            release(s, maps, key_tiles, tile - 1);
        }
#pragma unroll
        for (u32 i = 0; i < DIM / 2; ++i) acc[i] *= i / 2 % 2 ? rescale.y : rescale.x;
        round_weights(scores);
    }

    // The last two tiles, the last of which is narrow.
    template <u32 COLUMNS> DEVICE void last_tile() {
        next_tile<COLUMNS>(key_tiles.tiles - 1);
        start_values<COLUMNS>(key_tiles.tiles - 1);
        finish_values();
    }

    DEVICE void store(const Args& a) {
        const Head& head = key_tiles.head;
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const float scale = 1.0f / row_sum(softmax.total[half]);
            const u32 row = token() + half * 8;
#pragma unroll
            for (u32 j = 0; j < DIM / 8; j += 2) {
                Float4 y = row_float4(&acc[4 * j + 2 * half]);
                for (u32 k = 0; k < VEC; ++k) y[k] *= scale;
                const u32 column = blockIdx.y * DIM + (j + lane() % 2) * 8 + lane() % 4 / 2 * 4;
                if (row < head.tokens) store_float4(a, (blockIdx.z * head.tokens + row) * head.channels + column, y);
            }
        }
    }
};

// Attention for a block's queries.
DEVICE void attention_on_tiles(const Args& a, const Maps& maps, Tiles& s) {
    if (is_producer()) {
        for (const TensorMap& map : maps.of) prefetch_map(map);
        s.queries_full.init(1);
        for (u32 i = 0; i < STAGES; ++i) s.full[i].init(1), s.empty[i].init(4 * WARPGROUPS);
        show_barriers();
    }
    wait_for_previous_launch();
    const Head head(a, blockIdx.y, blockIdx.z);
    const KeyTiles key_tiles(head);
    if (is_producer()) load_first(s, maps, key_tiles);
    __syncthreads();
    Warpgroup warpgroup(s, maps, key_tiles);
    s.queries_full.wait(0);
    warpgroup.first_tile();
    const u32 narrow = key_tiles.narrow();
    for (u32 tile = 1; tile < key_tiles.tiles - (narrow > 0); ++tile) warpgroup.next_tile<KEYS>(tile);
    if (narrow == FEW) {
        warpgroup.last_tile<FEW>();
    } else if (narrow == SOME) {
        warpgroup.last_tile<SOME>();
    } else {
        warpgroup.start_values<KEYS>(key_tiles.tiles - 1);
        warpgroup.finish_values();
    }
    warpgroup.store(a);
}
