// depthwise_norm: 3 x 3 kernel, a tile of pixels per cluster of blocks; c is a multiple of four, at most 640
//
// Operands as in depthwise_norm.cu; no scratch.
//
// Launch     a cluster of four blocks per tile of TILE_H x 8 pixels; each block has a quarter of the channels.
// Shared     66.5 KiB, of which the tile with its one-pixel halo takes 62.5.
// Memory     as depthwise_norm.512.sm90a.cu. Reads x 1.5 times from L2. L2 traffic with weights and y is 22 MB for 64 x 64
//            pixels of 640 channels and 44 MB for 128 x 128 of 320. Memory could move 13 and 27 MB in that time but must
//            move 16 and 31, so memory is the limit. 256 blocks, or four times as many; 264 fit on the GPU at once.
// Counts     x halo TILE_H COLUMNS*CLUSTER_X, weight tile, bias tile, y once; halo a block
// Numerics   accumulates in f32; mean and squared deviations per warp, then merged: as accurate as two passes.
// Needs      sm_90a: clusters.
// Tunables   TILE_H, CHANNELS.
// Reference  src/ops/depthwise_norm.rs
#include "common.cuh"

constexpr u32 CHANNELS = 160;
constexpr u32 TILE_H = 8;
constexpr u32 COLUMNS = 2;
constexpr u32 CLUSTER_X = 4;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 256;
constexpr u32 SHARED = 68096;
#include "depthwise_cluster.cuh"

KERNEL_CLUSTER(depthwise_norm_160_sm90a, 2) {
    SHARED_TILES(Shared, s);
    depthwise_norm_of_cluster(a, s);
}
