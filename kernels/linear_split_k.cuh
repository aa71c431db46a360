// A linear layer on Hopper's tensor cores with split-K: SPLITS blocks share a tile of the result, each with a part of K. The
// including file defines what linear_tiles.cuh asks for, SPLITS and WARP_ROWS.
//
// Each block has partial accumulators. The last block to reach a sub-tile sums the partials of all and runs the epilogue;
// those before it leave theirs in scratch memory. No block waits for another, so they need not run at once. Partials are
// always added in the same order, whichever block does it, so that the result has the same bits every time. A sub-tile is a warp's
// rows and one SPLITS-th of the columns. Each block reaches a sub-tile of its own last, so that blocks that end at the same
// time share the work.
#pragma once
#include "linear_tiles.cuh"

constexpr u32 SUB_TILE = (TILE_N / CHUNK + SPLITS - 1) / SPLITS * CHUNK; // columns
constexpr u32 CHUNKS = (SUB_TILE / CHUNK + 3) / 4 * 2; // per lane: of every 32 columns one chunk in each of two rows
static_assert(WARP_ROWS == 16, "of an MMA");

// A sub-tile of the calling warp's rows of this block's tile.
struct SubTile {
    const Args& a;
    Stages& s;
    u32 begin, end; // columns
    u32 strip;      // number of the warp's rows and columns among all of the layer
    u32* counter;   // of blocks that have left their partials

    DEVICE SubTile(const Args& args, Stages& stages, u32 which, u32 number)
        : a(args), s(stages), begin(number * SUB_TILE), end(min_of(begin + SUB_TILE, TILE_N)), strip(which),
          counter(a.counters() + strip * SPLITS + number) {}

    // use(i, place in the block's tile, place in a partial) for each chunk of this lane.
    template <class Use> DEVICE void each(const Use& use) const {
#pragma unroll
        for (u32 i = 0; i < CHUNKS; ++i) {
            const u32 row = lane() / 4 + i % 2 * 8, column = begin + i / 2 * 4 * CHUNK + lane() % 4 * CHUNK;
            if (column < end) use(i, &s.staged[first_row() + row][column], row * TILE_N + column);
        }
    }
    // Where block i leaves its partials of the warp's rows.
    DEVICE float* partial(u32 i) const { return a.scratch() + (strip * SPLITS + i) * (WARP_ROWS * TILE_N); }

    // Whether all other blocks are counted; the same answer in every lane.
    DEVICE static bool all_others(u32 count) { return __shfl_sync(0xffffffffu, count, 0) == SPLITS - 1; }

    // Leaves this block's partials, unless all others have left theirs. Whether this block is the last, which sums them up.
    DEVICE bool is_last() const {
        if (all_others(lane() == 0 ? counted(counter) : 0)) return true;
        each([&](u32, const float* own, u32 at) {
            const float4* from = reinterpret_cast<const float4*>(own);
            float4* to = reinterpret_cast<float4*>(partial(blockIdx.z) + at);
            to[0] = from[0], to[1] = from[1];
        });
        __syncwarp();
        return all_others(lane() == 0 ? count_one(counter) : 0);
    }

    // Sums up all partials into this block's tile. A lane loads all of its chunks at once.
    DEVICE void add() const {
        __syncwarp();
        float sums[CHUNKS][CHUNK] = {};
#pragma unroll
        for (u32 p = 0; p < SPLITS; ++p) {
            each([&](u32 i, const float* own, u32 at) {
                float chunk[CHUNK];
                if (p == blockIdx.z) {
                    load_reals(chunk, own, CHUNK, true);
                } else {
                    load_reals(chunk, partial(p) + at, CHUNK, true);
                }
                for (u32 j = 0; j < CHUNK; ++j) sums[i][j] += chunk[j];
            });
        }
        each([&](u32 i, float* own, u32) {
            for (u32 j = 0; j < CHUNK; ++j) own[j] = sums[i][j];
        });
        if (lane() == 0) *counter = 0; // for the next launch
    }
};

// The whole layer.
DEVICE void linear_split_k(const Args& a, const Maps& maps, Stages& s) {
    const u32 all = div_up(a.shape[X].c, TILE_K), each = div_up(all, SPLITS), from = blockIdx.z * each;
    // A block whose part of K is empty multiplies the zeros behind the last column.
    const u32 count = from < all ? min_of(each, all - from) : 1;
    linear_tile(a, maps, s, from * TILE_K, count, [&](u32) {
        const u32 row = blockIdx.x * TILE_M + first_row();
        if (row >= a.out.rows() || blockIdx.y * TILE_N >= a.out.c) return;
        const u32 strip = row / WARP_ROWS * div_up(a.out.c, TILE_N) + blockIdx.y;
#pragma unroll 1
        for (u32 i = 1; i <= SPLITS; ++i) {
            const SubTile tile(a, s, strip, (blockIdx.z + i) % SPLITS);
            if (!tile.is_last()) continue;
            tile.add();
            store_results(a, s, tile.begin, tile.end);
        }
    });
}
