// A linear layer on tensor cores (mma.sync). The including file defines TILE_M and TILE_N.
#pragma once
#include "linear.cuh"
#include "grn_squares.cuh"
#include "gemm_mma.cuh"

// Rows of x with the fused prologue applied.
struct Rows {
    static constexpr bool ASYNC = false;
    const Args& a;
    u32 first, rows, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 row = first + chunk_row(i), count = row < rows && k < depth ? depth - k : 0;
        const bool aligned = depth % CHUNK == 0;
        load_tensor(to, a.tensor(X), row * depth + k, count, aligned);
        if (a.has(SCALE)) {
            float chunk[CHUNK];
            load_reals(chunk, a.real(SCALE) + row / a.out.tokens() * depth + k, count, aligned);
            for (u32 j = 0; j < CHUNK; ++j) to[j] *= chunk[j];
            if (a.has(SHIFT)) {
                load_tensor(chunk, a.tensor(SHIFT), k, count, aligned);
                for (u32 j = 0; j < CHUNK; ++j) to[j] += chunk[j];
            }
        }
    }
};

constexpr bool WHOLE_PART = WARP_M == PART_ROWS && WARP_N == 32; // a warp covers whole blocks of squares

// Computes and stores a block's tile of the result.
DEVICE void linear_on_tensor_cores(const Args& a, OperandTiles& s) {
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N, depth = a.shape[X].c;
    const Tensor weight = a.tensor(WEIGHT);
    Accumulator acc;
    if (a.kind[X] == BF16 && weight.kind == BF16 && depth % CHUNK == 0 && !a.has(SCALE)) {
        const auto matrix = [&](const void* at, u32 first, u32 rows) {
            return Bf16Matrix{static_cast<const u16*>(at), first, rows, depth};
        };
        gemm_tile(s, acc, depth, matrix(a.operand_at[X], row, a.out.rows()), matrix(weight.at, column, a.out.c));
    } else {
        gemm_tile(s, acc, depth, Rows{a, row, a.out.rows(), depth}, weight, column, a.out.c);
    }
    const Epilogue<false> epilogue(a);
    Squares squares;
    acc.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
        epilogue.store(row + r, column + c, v);
        if constexpr (WHOLE_PART) squares.add(v);
    });
    if constexpr (WHOLE_PART) {
        if (!a.squares()) return;
        const float total = squares.total();
        const u32 part = row + warp() / WARPS_N * WARP_M, c = column + warp() % WARPS_N * WARP_N + Squares::column();
        if (part < a.out.rows() && c < a.out.c) a.squares()[part / PART_ROWS * a.out.c + c] = total;
    }
}
