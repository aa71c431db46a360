// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on Hopper's tensor cores
//
// Operands as in linear.cu; x and the weight are bf16, their channels and those of out are multiples of eight.
//
// Launch     one block per TILE_M rows and TILE_N channels, THREADS threads: 3 consumer warpgroups multiply and
//            one producer warpgroup copies. The two blocks of a cluster share x by multicast.
// Shared     211 KiB: 5 pipeline stages of a K tile of 64, 42 KiB each; the epilogue stages accumulators in the same memory.
// Memory     reads x once per 2 TILE_N channels and the weight once per TILE_M rows.
// Numerics   x * scale + shift is rounded to bf16; the accumulation and the epilogue are f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   TILE_M, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 192;
constexpr u32 TILE_N = 144;
constexpr u32 STAGES = 5;
constexpr u32 CLUSTER_X = 1;
constexpr u32 CLUSTER_Y = 2;
constexpr u32 THREADS = 512;
constexpr u32 SHARED = 216064;
#include "linear_tiles.cuh"

KERNEL_TILED(linear_192x144_sm90a) {
    SHARED_TILES(Stages, s);
    linear_on_tiles(a, maps, s);
}
