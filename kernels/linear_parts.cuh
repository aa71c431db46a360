// A linear layer on Hopper's tensor cores, its terms split among SPLITS blocks. What linear_tiles.cuh asks for, and SPLITS and
// WARP_ROWS, are of the including file.
//
// Each block has sums over its part of the terms. Whichever comes last to a piece of the tile adds up all parts of it and makes
// results; those before it leave theirs in scratch memory. Nobody waits, so blocks need not run at once. Parts are added
// in their order, whoever does it: the same bits every time. A piece is a warp's rows and a SPLITS-th of the columns. Each
// block comes to a piece of its own last, so that blocks which end together share the work.
#pragma once
#include "linear_tiles.cuh"

constexpr u32 PIECE = (TILE_N / CHUNK + SPLITS - 1) / SPLITS * CHUNK; // columns
constexpr u32 CHUNKS = (PIECE / CHUNK + 3) / 4 * 2;                     // of a lane: of every 32 columns one of two rows
static_assert(WARP_ROWS == 16, "of a product");

// A piece of this block's tile, of the warp that asks.
struct Piece {
    const Args& a;
    Stages& s;
    u32 begin, end; // columns
    u32 strip;      // which rows and tile of the layer's
    u32* counter;   // of blocks that have left their part

    DEVICE Piece(const Args& args, Stages& stages, u32 which, u32 number)
        : a(args), s(stages), begin(number * PIECE), end(min_of(begin + PIECE, TILE_N)), strip(which),
          counter(a.counters() + strip * SPLITS + number) {}

    // use(i, place in the tile, place in a part) for each chunk of this lane's.
    template <class Use> DEVICE void each(const Use& use) const {
#pragma unroll
        for (u32 i = 0; i < CHUNKS; ++i) {
            const u32 row = lane() / 4 + i % 2 * 8, column = begin + i / 2 * 4 * CHUNK + lane() % 4 * CHUNK;
            if (column < end) use(i, &s.sums[first_row() + row][column], row * TILE_N + column);
        }
    }
    DEVICE float* part(u32 i) const { return a.scratch() + (strip * SPLITS + i) * (WARP_ROWS * TILE_N); }

    // The same count in every lane.
    DEVICE static bool all_others(u32 count) { return __shfl_sync(0xffffffffu, count, 0) == SPLITS - 1; }

    // Leaves this block's part, unless all others have; whether they have in the end.
    DEVICE bool is_last() const {
        if (all_others(lane() == 0 ? counted(counter) : 0)) return true;
        each([&](u32, const float* own, u32 at) {
            const float4* from = reinterpret_cast<const float4*>(own);
            float4* to = reinterpret_cast<float4*>(part(blockIdx.z) + at);
            to[0] = from[0], to[1] = from[1];
        });
        __syncwarp();
        return all_others(lane() == 0 ? count_one(counter) : 0);
    }

    // Adds up all parts, where this block's is. A lane reads all of its chunks at once.
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
                    load_reals(chunk, part(p) + at, CHUNK, true);
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
DEVICE void linear_of_parts(const Args& a, const Maps& maps, Stages& s) {
    const u32 all = div_up(a.shape[X].c, TILE_K), each = div_up(all, SPLITS), from = blockIdx.z * each;
    // A part without terms multiplies the zeros behind them.
    const u32 count = from < all ? min_of(each, all - from) : 1;
    linear_tile(a, maps, s, from * TILE_K, count, [&](u32) {
        const u32 row = blockIdx.x * TILE_M + first_row();
        if (row >= a.out.rows() || blockIdx.y * TILE_N >= a.out.c) return;
        const u32 strip = row / WARP_ROWS * div_up(a.out.c, TILE_N) + blockIdx.y;
#pragma unroll 1
        for (u32 i = 1; i <= SPLITS; ++i) {
            const Piece piece(a, s, strip, (blockIdx.z + i) % SPLITS);
            if (!piece.is_last()) continue;
            piece.add();
            store_results(a, s, piece.begin, piece.end);
        }
    });
}
