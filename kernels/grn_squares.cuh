// Per-channel sums of squares over blocks of PART_ROWS rows, [rows / PART_ROWS, c] at Args::squares(). A linear layer
// writes them in its epilogue, so that the GRN after it reads a thirty-second of the bytes instead of the whole result.
#pragma once
#include "chunk.cuh"

constexpr u32 PART_ROWS = 64; // no block spans two images: backend/cuda/squares.rs sees to that

// A warp's sums over 32 columns. Each lane accumulates chunks of the columns from lane() % 4 * CHUNK on.
struct Squares {
    float sums[CHUNK] = {};

    DEVICE void add(const float (&v)[CHUNK]) {
        for (u32 i = 0; i < CHUNK; ++i) sums[i] += v[i] * v[i];
    }

    // The column whose total this lane ends up with.
    DEVICE static u32 column() { return lane() % 4 * CHUNK + lane() / 16 * 4 + lane() / 8 % 2 * 2 + lane() / 4 % 2; }

    // The total of that column over the eight lanes that accumulated it. Each step halves the number of sums per lane.
    DEVICE float total() {
#pragma unroll
        for (u32 half = CHUNK / 2; half > 0; half /= 2) {
            const bool upper = lane() & half * 4;
#pragma unroll
            for (u32 i = 0; i < half; ++i) {
                const float mine = upper ? sums[half + i] : sums[i], theirs = upper ? sums[i] : sums[half + i];
                sums[i] = mine + __shfl_xor_sync(0xffffffffu, theirs, half * 4);
            }
        }
        return sums[0];
    }
};
