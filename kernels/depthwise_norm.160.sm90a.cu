// depthwise_norm: a window of 3 x 3, a tile of pixels for a cluster of blocks; c is a multiple of four, at most 640
//
// Operands as in depthwise_norm.cu; no scratch.
//
// Launch     a cluster of four blocks for every tile of TILE_H x 8 pixels, a block for a quarter of the channels.
// Shared     66.5 KiB: the tile with a border of a pixel, 62.5 of them.
// Memory     as depthwise_norm.512.sm90a.cu. Reads x 1.5 times by the way of L2: of 64 x 64 pixels and 640 channels
//            22 MB, of 128 x 128 and 320 44 MB, with the weights and y. In that time 13 and 27 MB would come from and go to
//            memory, which are 16 and 31: memory is what limits. 256 blocks, and 264 find room, or four times as many.
// Counts     x halo TILE_H COLUMNS*CLUSTER_X, weight tile, bias tile, y once; halo a block
// Numerics   f32 sums; mean and squares of every warp's channels, then of all of them: as accurate as two passes.
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
