// linear: as linear.mma.cu, with smaller tiles for few rows
//
// Operands as in linear.cu.
//
// Launch     one block per TILE_M rows and TILE_N channels: with few rows, the tiles of linear.mma.cu would be fewer than a
//            GPU has SMs.
// Shared     24 KiB: three pipeline stages of x and of the weight.
// Memory     reads x once per TILE_N channels and the weight once per TILE_M rows.
// Numerics   x * scale + shift and the weight are rounded to bf16 (operands stored as bf16 are copied as they are); the
//            accumulation and the epilogue are f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 64;
constexpr u32 TILE_N = 64;
#include "linear_mma.cuh"

KERNEL(linear_mma_rows, 3) {
    SHARED(OperandTiles, s);
    linear_on_tensor_cores(a, s);
}
