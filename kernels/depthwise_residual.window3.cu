// depthwise_residual: a window of 3 x 3, a tile of pixels in registers; c is a multiple of four, at most 2048
//
// Operands as in depthwise_residual.cu.
//
// Launch     one block for every TILE x TILE pixels, with a warp for every WARP_CHANNELS channels, a quad a thread.
// Shared     none.
// Memory     reads t 2.8 times (25 quads for 9 results), by the way of L2, from memory once; x once, the weights once
//            a block; writes y once. 256 x 256 pixels and 384 channels: 0.30 GB from and to memory, 0.53 GB by L2, of
//            which an H100 moves 1.6 times as much in the same time: 93 % of what memory allows. 15 warps of a
//            processor have some ten quads a lane under way, 75 KiB, of which latency takes 25.
// Counts     x once, t halo TILE TILE, weight tile, bias tile, gammas tile, y once; 160 bytes a thread
// Numerics   accumulates in f32.
// Needs      nothing.
// Tunables   TILE.
// Reference  src/ops/depthwise_residual.rs
#include "common.cuh"

constexpr u32 TILE = 3;
constexpr u32 THREADS = 512;
constexpr u32 WARP_CHANNELS = 128;
#include "window3.cuh"
static_assert(WARP_CHANNELS == 32 * QUAD, "threads have quads");

KERNEL(depthwise_residual_window3) {
    const u32 c = a.out.c, h = a.out.h, w = a.out.w, channel = threadIdx.x * QUAD;
    const u32 first_row = blockIdx.y * TILE, first_col = blockIdx.x * TILE;
    if (channel >= c) return;
    const auto element = [&](u32 row, u32 col) { return ((blockIdx.z * h + row) * w + col) * c + channel; };
    // The nearest to one before i, from 0 on.
    const auto nearest = [](u32 i, u32 count) { return min_of(i > 0 ? i - 1 : 0, count - 1); };

    const Tile t = convolve(a.tensor(2), a.tensor(3), channel, [&](u32 i, u32 j) {
        return load_quad(a.real(1), element(nearest(first_row + i, h), nearest(first_col + j, w)));
    });
    Quad x[TILE * TILE]; // asked for at once
#pragma unroll
    for (u32 p = 0; p < TILE * TILE; ++p) {
        x[p] = load_quad(a.real(0), element(min_of(first_row + p / TILE, h - 1), min_of(first_col + p % TILE, w - 1)));
    }
    const float gamma = a.tensor(4)[2];
#pragma unroll
    for (u32 p = 0; p < TILE * TILE; ++p) {
        const u32 row = first_row + p / TILE, col = first_col + p % TILE;
        if (row >= h || col >= w) continue;
        for (u32 k = 0; k < QUAD; ++k) x[p][k] += gamma * t.at[p / TILE][p % TILE][k];
        store_quad(a, element(row, col), x[p]);
    }
}
