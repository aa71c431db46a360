// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on tensor cores
//
// Operands as in linear.cu.
//
// Launch     one block per TILE_M rows and TILE_N channels, THREADS threads; blocks launched together share weights in L2.
// Shared     48 KiB: three pipeline stages of x and of the weight.
// Memory     reads x once per TILE_N channels and the weight once per TILE_M rows.
// Numerics   x * scale + shift and the weight are rounded to bf16 (operands stored as bf16 are copied as they are); the
//            accumulation and the epilogue are f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
#include "linear_mma.cuh"

KERNEL(linear_mma, 2) {
    SHARED(OperandTiles, s);
    linear_on_tensor_cores(a, s);
}
