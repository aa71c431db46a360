// depthwise_norm: a window of 3 x 3, a tile of pixels for a cluster of blocks; c is a multiple of four, at most 2048
//
// Operands as in depthwise_norm.cu; no scratch.
//
// Launch     a cluster of four blocks for every tile of TILE_H x 4 pixels, a block for a quarter of the channels.
// Shared     104 KiB: the tile with a border of a pixel, 96 of them.
// Memory     asks for the whole tile at once, so that two blocks have 192 KiB under way on a processor, of which latency
//            takes 25; adds up the first rows while the last ones arrive. Stage C, 24 x 24 pixels of two images and 2048
//            channels: 192 blocks, and 264 find room. Reads x 1.8 times by the way of L2, from memory once: 17 MB, with 2 MB
//            of weights and 5 MB of y 23, which take as long as the 14 MB from and to memory. With all channels in one
//            block, depthwise_norm.window3.cu has room for tiles of 3 x 3, which read x 2.8 times: 36 MB. 32 x 32 pixels
//            of 1280 channels: 14 MB by L2, 8 from and to memory, 94 % of what memory allows. About 20 instructions a
//            value: 40 % of what a processor issues in that time.
// Counts     x halo TILE_H COLUMNS*CLUSTER_X, weight tile, bias tile, y once; halo a block
// Numerics   f32 sums; mean and squares of every warp's channels, then of all of them: as accurate as two passes.
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
