// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b
//
// x         [n, h, w, k] f32 or bf16
// weight    [o, k] any type
// bias      [o] any type, or absent
// residual  [n, h, w, o] f32, or absent; may be out
// scale     [n, 1, 1, k] f32, or absent
// shift     [k] any type, or absent
// table     [n or 1, 1, steps, 2 o] f32, or absent: a, then b
// counter   [1, 1, 1, 1] u32, with table
// out       [n, h, w, o] f32 or bf16
//
// Launch     one block per TILE_M rows and TILE_N channels, THREADS threads; blocks launched together share weights in L2.
// Shared     8.5 KiB.
// Memory     reads x once per TILE_N channels and the weight once per TILE_M rows.
// Numerics   multiplies and accumulates in f32.
// Needs      nothing.
// Tunables   TILE_M, TILE_N, TILE_K, THREADS (gemm.cuh).
// Reference  src/ops/linear.rs
#include "linear.cuh"
#include "gemm.cuh"

KERNEL(linear) {
    SHARED(OperandTiles, s);
    const u32 rows = a.out.rows(), depth = a.shape[X].c;
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N;
    const u32 my_row = row + loaded_row(), my_column = column + loaded_row();
    const Prologue prologue(a, my_row);
    const Tensor x = a.tensor(X), weight = a.tensor(WEIGHT);

    float acc[SIDE][SIDE] = {};
    gemm_tile(
        s, acc, depth, [&](u32 k) { return my_row < rows ? prologue(k, x[my_row * depth + k]) : 0.0f; },
        [&](u32 k) { return my_column < a.out.c ? weight[my_column * depth + k] : 0.0f; });

    const Epilogue<false> epilogue(a);
    for (u32 i = 0; i < SIDE; ++i) {
        for (u32 j = 0; j < SIDE; ++j) epilogue.store(row + result_row(i), column + result_column(j), acc[i][j]);
    }
}
