// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on Hopper's tensor cores, terms split up
//
// Operands as in linear.cu; x and the weight are bf16, their channels and those of out multiples of eight.
//
// Launch     one block for every TILE_M rows, TILE_N channels and SPLITS-th part of the terms, THREADS threads: 2
//            groups of four warps that multiply, one that copies. Two blocks form a cluster and share x.
// Shared     209 KiB: 8 stages of 64 terms, 26 KiB each; the sums at the end.
// Memory     reads x once for every 2 TILE_N channels, the weight once for every TILE_M rows; writes and reads all
//            parts of the result but one, in f32.
// Numerics   x * scale + shift is rounded to bf16; sums and all the rest in f32.
// Needs      sm_90a: copies of tiles, wgmma, clusters.
// Tunables   TILE_M, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y, SPLITS.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 80;
constexpr u32 STAGES = 8;
constexpr u32 SPLITS = 4;
constexpr u32 WARP_ROWS = 16; // of a product that four warps share
constexpr u32 CLUSTER_X = 1;
constexpr u32 CLUSTER_Y = 2;
constexpr u32 THREADS = 384;
constexpr u32 SHARED = 214016;
#include "linear_parts.cuh"

KERNEL_TILED(linear_128x80_split4_sm90a) {
    SHARED_TILES(Stages, s);
    linear_of_parts(a, maps, s);
}
