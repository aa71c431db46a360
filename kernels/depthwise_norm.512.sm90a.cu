// depthwise_norm: 3 x 3 kernel, a tile of pixels per cluster of blocks; c is a multiple of four, at most 2048
//
// Operands as in depthwise_norm.cu; no scratch.
//
// Launch     a cluster of four blocks per tile of TILE_H x 4 pixels; each block has a quarter of the channels.
// Shared     104 KiB, of which the tile with its one-pixel halo takes 96.
// Memory     issues the copies of the whole tile at once: two blocks have 192 KiB in flight per SM, where 25 hide the
//            latency. The first rows are summed while the last ones arrive. In Stage C, 24 x 24 pixels of two images
//            with 2048 channels are 192 blocks; 264 fit at once. x is read 1.8 times from L2 and once from memory: 17 MB,
//            with 2 MB of weights and 5 MB of y 23 MB by L2, which take as long as the 14 MB from and to memory. With all
//            channels in one block, depthwise_norm.3x3.cu has room for tiles of 3 x 3 only, which read x 2.8 times:
//            36 MB. 32 x 32 pixels of 1280 channels: 14 MB by L2, 8 MB from and to memory, 94 % of the memory roofline.
//            About 20 instructions per value are 40 % of what an SM can issue in that time.
// Counts     x halo TILE_H COLUMNS*CLUSTER_X, weight tile, bias tile, y once; halo a block
// Numerics   accumulates in f32; mean and squared deviations per warp, then merged: as accurate as two passes.
// Needs      sm_90a: clusters.
// Tunables   TILE_H, CHANNELS.
// Reference  src/ops/depthwise_norm.rs
#include "common.cuh"

constexpr u32 CHANNELS = 512;
constexpr u32 TILE_H = 6;
constexpr u32 COLUMNS = 1;
constexpr u32 CLUSTER_X = 4;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 256;
constexpr u32 SHARED = 106496;
#include "depthwise_cluster.cuh"

KERNEL_CLUSTER(depthwise_norm_512_sm90a, 2) {
    SHARED_TILES(Shared, s);
    depthwise_norm_of_cluster(a, s);
}
