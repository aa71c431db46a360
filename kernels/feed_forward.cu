// feed_forward: y = x + g5 (W2 gelu(W0 (LN(x) (1 + g3) + g4) + b0) + b2), g = gammas
//
// x        [n, h, w, c] f32; may be out
// gammas   [6] any type
// w0       [m, c] any type
// b0       [m] any type
// w2       [c, m] any type
// b2       [c] any type
// out      [n, h, w, c] f32 or bf16
// scratch  [n, h, w, m] f32: the hidden activations
//
// Launch     feed_forward_up: one block per TILE_M rows and TILE_N hidden channels; then
//            feed_forward: one block per TILE_M rows and TILE_N channels.
// Shared     8.5 KiB.
// Memory     writes and reads the hidden activations, the largest tensor there is. The feed_forward rows above this one in
//            the registry avoid that or store it in bf16.
// Numerics   multiplies and accumulates in f32; the variance takes a second pass.
// Needs      nothing.
// Tunables   TILE_M, TILE_N, TILE_K, THREADS (gemm.cuh).
// Reference  src/ops/feed_forward.rs
#include "feed_forward.cuh"
#include "gemm.cuh"

KERNEL(feed_forward_up) {
    SHARED(OperandTiles, s);
    const u32 rows = a.out.rows(), c = a.out.c, hidden = a.shape[B0].c;
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N;
    const u32 my_row = row + loaded_row(), my_column = column + loaded_row();
    const Norm<SIDE> norm(a, min_of(my_row, rows - 1), threadIdx.x % SIDE);
    const Tensor weight = a.tensor(W0), bias = a.tensor(B0);
    float acc[SIDE][SIDE] = {};
    gemm_tile(
        s, acc, c, [&](u32 k) { return norm(norm.x[k]); },
        [&](u32 k) { return my_column < hidden ? weight[my_column * c + k] : 0.0f; });
    for (u32 i = 0; i < SIDE; ++i) {
        for (u32 j = 0; j < SIDE; ++j) {
            const u32 r = row + result_row(i), o = column + result_column(j);
            if (r < rows && o < hidden) a.scratch()[r * hidden + o] = apply(GELU_ERF, acc[i][j] + bias[o]);
        }
    }
}

KERNEL(feed_forward) {
    SHARED(OperandTiles, s);
    const u32 rows = a.out.rows(), c = a.out.c, hidden = a.shape[B0].c;
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N;
    const u32 my_row = row + loaded_row(), my_column = column + loaded_row();
    const Tensor weight = a.tensor(W2), bias = a.tensor(B2);
    const float factor = a.tensor(GAMMAS)[5];

    float acc[SIDE][SIDE] = {};
    gemm_tile(
        s, acc, hidden, [&](u32 k) { return my_row < rows ? a.scratch()[my_row * hidden + k] : 0.0f; },
        [&](u32 k) { return my_column < c ? weight[my_column * hidden + k] : 0.0f; });
    for (u32 i = 0; i < SIDE; ++i) {
        for (u32 j = 0; j < SIDE; ++j) {
            const u32 r = row + result_row(i), o = column + result_column(j);
            if (r >= rows || o >= c) continue;
            const u32 at = r * c + o;
            a.store(at, a.real(X)[at] + factor * (acc[i][j] + bias[o]));
        }
    }
}
