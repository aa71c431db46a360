// conv2d: convolution with zero padding, as an implicit GEMM of im2col rows and filters
//
// x       [n, h, w, c] f32 or bf16
// weight  [o, c, kh, kw] any type
// bias    [o] any type, or absent
// out     [n, (h + 2 padding - kh) / stride + 1, ..., o] f32 or bf16
//
// Launch     one block per TILE_M pixels and TILE_N channels of out.
// Shared     8.5 KiB.
// Memory     reads the input patches once per TILE_N channels, the weight once per TILE_M pixels.
// Numerics   multiplies and accumulates in f32.
// Needs      nothing.
// Tunables   TILE_M, TILE_N, TILE_K, THREADS (gemm.cuh).
// Reference  src/ops/conv2d.rs
#include "conv.cuh"
#include "gemm.cuh"

KERNEL(conv2d) {
    SHARED(OperandTiles, s);
    const u32 rows = a.out.rows(), row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N;
    const u32 my_row = row + loaded_row(), my_column = column + loaded_row();
    const Patch patch(a, my_row);
    const Filter filter(a, my_column);

    float acc[SIDE][SIDE] = {};
    gemm_tile(
        s, acc, filter.c * filter.pixels, [&](u32 k) { return my_row < rows ? patch_element(a.tensor(X), patch, k) : 0.0f; },
        [&](u32 k) { return my_column < a.out.c ? filter(k) : 0.0f; });

    const Tensor bias = a.tensor(BIAS);
    for (u32 i = 0; i < SIDE; ++i) {
        for (u32 j = 0; j < SIDE; ++j) {
            const u32 r = row + result_row(i), o = column + result_column(j);
            if (r < rows && o < a.out.c) a.store(r * a.out.c + o, acc[i][j] + (bias ? bias[o] : 0.0f));
        }
    }
}
