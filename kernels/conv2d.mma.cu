// conv2d: convolution with zero padding, as an implicit GEMM of im2col rows and filters, on tensor cores
//
// Operands as in conv2d.cu.
//
// Launch     one block per TILE_M pixels and TILE_N channels of out.
// Shared     48 KiB: three pipeline stages of im2col rows and of the weight.
// Memory     reads the input patches once per TILE_N channels, the weight once per TILE_M pixels.
// Numerics   x and the weight are rounded to bf16; accumulates in f32.
// Needs      sm_80: ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/conv2d.rs
#include "conv.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
#include "gemm_mma.cuh"

struct Patches {
    static constexpr bool ASYNC = false;
    const Args& a;
    u32 first, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 row = first + chunk_row(i);
        load_patch(to, a.tensor(X), Patch(a, row), k, row < a.out.rows() ? depth : 0);
    }
};

struct Filters {
    static constexpr bool ASYNC = false;
    const Args& a;
    u32 first, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 channel = first + chunk_row(i);
        const Filter filter(a, channel);
        for (u32 j = 0; j < CHUNK; ++j) to[j] = channel < a.out.c && k + j < depth ? filter(k + j) : 0.0f;
    }
};

KERNEL(conv2d_mma, 2) {
    SHARED(OperandTiles, s);
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N;
    const u32 depth = a.shape[X].c * a.shape[WEIGHT].w * a.shape[WEIGHT].c;
    Accumulator acc;
    gemm_tile(s, acc, depth, Patches{a, row, depth}, Filters{a, column, depth});
    acc.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
        if (row + r < a.out.rows()) store_pixel(a, row + r, column + c, v);
    });
}
