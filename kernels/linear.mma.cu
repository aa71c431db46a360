// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on tensor cores
//
// Operands as in linear.cu.
//
// Launch     one block for every TILE_M rows and TILE_N channels, THREADS threads; neighbouring blocks
//            share the weights.
// Shared     48 KiB: three tiles of x, three of the weight.
// Memory     reads x once per TILE_N channels and the weight once per TILE_M rows.
// Numerics   x * scale + shift and the weight are rounded to bf16, unless they are bf16 and are copied as they lie; sums and all the rest in f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
#include "linear_tensor.cuh"

KERNEL(linear_mma, 2) {
    SHARED(Factors, s);
    linear_on_tensor_cores(a, s);
}
