// conv_transpose2d: windows of two by two side by side, on Hopper's tensor cores
//
// Operands as in conv_transpose2d.cu; x and the weight are bf16, their channels and those of out multiples of eight; stride 2,
// no padding.
//
// Launch     one block for every TILE_H by TILE_W pixels of x (y) and CHANNELS channels of out (x), THREADS threads: two groups of
//            four warps that multiply, a warp that copies. Two blocks form a cluster and share the weight.
// Shared     217 KiB: 6 pipeline stages of a K tile of 64, 36 KiB each; the epilogue stages accumulators in the same memory.
// Memory     reads x once for every CHANNELS channels, the weight once for every 2 TILE_H by TILE_W pixels, 64 bytes side by side.
// Numerics   sums and all the rest in f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   TILE_H, TILE_W, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y.
// Reference  src/ops/conv_transpose2d.rs
#include "common.cuh"

constexpr u32 TILE_H = 8;
constexpr u32 TILE_W = 16;
constexpr u32 TILE_N = 160;
constexpr u32 CHANNELS = 40;
constexpr u32 TAPS = 1;
constexpr u32 STAGES = 6;
constexpr u32 CLUSTER_X = 1;
constexpr u32 CLUSTER_Y = 2;
constexpr u32 THREADS = 288;
constexpr u32 SHARED = 222208;
#include "conv_transpose2d_tiles.cuh"

KERNEL_TILED(conv_transpose2d_128x160_sm90a) {
    SHARED_TILES(Stages, s);
    conv_transpose_on_tiles(a, maps, s);
}
