// conv_transpose2d: 2 x 2 kernel, stride 2 (patches do not overlap), on Hopper's tensor cores
//
// Operands as in conv_transpose2d.cu; x and the weight are bf16; their channels and those of out are multiples of eight;
// no padding.
//
// Launch     one block per TILE_H x TILE_W pixels of x (y) and CHANNELS channels of out (x), THREADS threads: two consumer
//            warpgroups multiply and one producer warp copies. The two blocks of a cluster share x by multicast.
// Shared     225 KiB: 8 pipeline stages of a K tile of 64, 28 KiB each; the epilogue stages accumulators in the same memory.
// Memory     reads x once per 2 CHANNELS channels, the weight once per tile of pixels, in rows of 64 bytes.
// Numerics   the accumulation and the epilogue are f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   TILE_H, TILE_W, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y.
// Reference  src/ops/conv_transpose2d.rs
#include "common.cuh"

constexpr u32 TILE_H = 8;
constexpr u32 TILE_W = 16;
constexpr u32 TILE_N = 96;
constexpr u32 CHANNELS = 24;
constexpr u32 TAPS = 1;
constexpr u32 STAGES = 8;
constexpr u32 CLUSTER_X = 2;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 288;
constexpr u32 SHARED = 230400;
#include "conv_transpose2d_tiles.cuh"

KERNEL_TILED(conv_transpose2d_128x96_sm90a) {
    SHARED_TILES(Stages, s);
    conv_transpose_on_tiles(a, maps, s);
}
