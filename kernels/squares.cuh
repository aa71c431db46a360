// Sums of squares over parts of the rows, [rows / PART_ROWS, c] at Args::squares(): a linear layer leaves them as it
// stores its result, so that the response norm that follows has a thirty-second of the bytes to read.
#pragma once
#include "chunk.cuh"

constexpr u32 PART_ROWS = 64; // backend/cuda/program.rs: a part is of one image

// Of 32 columns, a warp's: each lane adds chunks of the columns from lane() % 4 * CHUNK on.
struct Squares {
    float sums[CHUNK] = {};

    DEVICE void add(const float (&v)[CHUNK]) {
        for (u32 i = 0; i < CHUNK; ++i) sums[i] += v[i] * v[i];
    }

    // The column that is this lane's in the end.
    DEVICE static u32 column() { return lane() % 4 * CHUNK + lane() / 16 * 4 + lane() / 8 % 2 * 2 + lane() / 4 % 2; }

    // Its sum over the eight lanes that have added to it. Each step halves what a lane still holds.
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
