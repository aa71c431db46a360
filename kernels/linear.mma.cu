// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on tensor cores
//
// Operands as in linear.cu.
//
// Launch     one block for every TILE_M rows and TILE_N channels, THREADS threads; neighbouring blocks
//            share the weights.
// Shared     40 KiB: two tiles of x, three of the weight.
// Memory     reads x once for every TILE_N channels, the weight once for every TILE_M rows.
// Numerics   x * scale + shift and the weight are rounded to bf16; sums and all the rest in f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/linear.rs
#include "linear.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
#include "tensor.cuh"

// Rows of x, with what rides on them.
struct Rows {
    const Args& a;
    u32 first, rows, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 row = first + chunk_row(i), count = row < rows && k < depth ? depth - k : 0;
        const bool aligned = depth % 4 == 0;
        load_reals(to, a.real(X) + row * depth + k, count, aligned);
        if (a.has(SCALE)) {
            float ride[CHUNK];
            load_reals(ride, a.real(SCALE) + row / a.out.tokens() * depth + k, count, aligned);
            for (u32 j = 0; j < CHUNK; ++j) to[j] *= ride[j];
            if (a.has(SHIFT)) {
                load_learned(ride, a.learned(SHIFT), k, count, aligned);
                for (u32 j = 0; j < CHUNK; ++j) to[j] += ride[j];
            }
        }
    }
};

KERNEL(linear_mma, 2) {
    SHARED(Factors, s);
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N, depth = a.shape[X].c;
    Sums sums;
    product(s, sums, depth, Rows{a, row, a.out.rows(), depth}, a.learned(WEIGHT), column, a.out.c);
    const Epilogue epilogue(a);
    sums.each(s, [&](u32 r, u32 c, float sum) { epilogue.store(row + r, column + c, sum); });
}
