// linear: as linear.mma.cu, for few rows
//
// Operands as in linear.cu.
//
// Launch     one block for every TILE_M rows and TILE_N channels: with few rows, tiles as large as those of
//            linear.mma.cu would be fewer than a GPU has processors.
// Shared     24 KiB: three tiles of x, three of the weight.
// Memory     reads x once per TILE_N channels and the weight once per TILE_M rows.
// Numerics   x * scale + shift and the weight are rounded to bf16, unless they are bf16 and are copied as they lie; sums and all the rest in f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 64;
constexpr u32 TILE_N = 64;
#include "linear_tensor.cuh"

KERNEL(linear_mma_rows, 3) {
    SHARED(Factors, s);
    linear_on_tensor_cores(a, s);
}
