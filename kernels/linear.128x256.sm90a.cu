// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on Hopper's tensor cores
//
// Operands as in linear.cu; x and the weight are bf16, their channels and those of out are multiples of eight.
//
// Launch     one block per TILE_M rows and TILE_N channels, THREADS threads: 2 consumer warpgroups multiply and
//            one producer warpgroup copies. The two blocks of a cluster share the weight by multicast.
// Shared     193 KiB: 4 pipeline stages of a K tile of 64, 48 KiB each; the epilogue stages accumulators in the same memory.
// Memory     reads x once per TILE_N channels and the weight once per 2 TILE_M rows.
// Numerics   x * scale + shift is rounded to bf16; the accumulation and the epilogue are f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   TILE_M, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 256;
constexpr u32 STAGES = 4;
constexpr u32 CLUSTER_X = 2;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 384;
constexpr u32 SHARED = 197632;
#include "linear_tiles.cuh"

KERNEL_TILED(linear_128x256_sm90a) {
    SHARED_TILES(Stages, s);
    linear_on_tiles(a, maps, s);
}
