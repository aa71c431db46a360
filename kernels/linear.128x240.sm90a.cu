// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on Hopper's tensor cores
//
// Operands as in linear.cu; x and the weight are bf16, their channels and those of out multiples of eight.
//
// Launch     one block for every TILE_M rows and TILE_N channels, THREADS threads: 2 groups of four warps that
//            multiply, one that copies. Two blocks form a cluster and share the weight.
// Shared     185 KiB: 4 stages of 64 terms, 46 KiB each; the sums at the end.
// Memory     reads x once for every TILE_N channels, the weight once for every 2 TILE_M rows.
// Numerics   x * scale + shift is rounded to bf16; sums and all the rest in f32.
// Needs      sm_90a: copies of tiles, wgmma, clusters.
// Tunables   TILE_M, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 240;
constexpr u32 STAGES = 4;
constexpr u32 CLUSTER_X = 2;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 384;
constexpr u32 SHARED = 189440;
#include "linear_tiles.cuh"

KERNEL_TILED(linear_128x240_sm90a) {
    SHARED_TILES(Stages, s);
    linear_on_tiles(a, maps, s);
}
