// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on Hopper's tensor cores, split-K
//
// Operands as in linear.cu; x and the weight are bf16, their channels and those of out are multiples of eight.
//
// Launch     one block per TILE_M rows, TILE_N channels and SPLITS-th of K, THREADS threads: 2 consumer warpgroups
//            multiply and one producer warpgroup copies. The two blocks of a cluster share the weight by multicast.
// Shared     217 KiB: 6 pipeline stages of a K tile of 64, 36 KiB each; the epilogue stages accumulators in the same memory.
// Memory     reads x once per TILE_N channels and the weight once per 2 TILE_M rows; writes and reads all
//            split-K partials but one, in f32.
// Numerics   x * scale + shift is rounded to bf16; the accumulation and the epilogue are f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   TILE_M, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y, SPLITS.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 160;
constexpr u32 STAGES = 6;
constexpr u32 SPLITS = 2;
constexpr u32 WARP_ROWS = 16; // that one warp holds of a warpgroup's accumulator
constexpr u32 CLUSTER_X = 2;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 384;
constexpr u32 SHARED = 222208;
#include "linear_split_k.cuh"

KERNEL_TILED(linear_128x160_split2_sm90a) {
    SHARED_TILES(Stages, s);
    linear_split_k(a, maps, s);
}
