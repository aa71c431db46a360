// depthwise_residual: 3 x 3 kernel, a tile of pixels in registers; c is a multiple of four, at most 2048
//
// Operands as in depthwise_residual.cu.
//
// Launch     one block per TILE x TILE pixels, with one warp per WARP_CHANNELS channels and one float4 per thread.
// Shared     none.
// Memory     reads t 2.8 times (25 input pixels for 9 results) from L2, once from memory; x once, the weights once per
//            block; writes y once. 256 x 256 pixels of 384 channels: 0.30 GB from and to memory and 0.53 GB by L2, whose
//            bandwidth on an H100 is 1.6 times memory's: 93 % of the memory roofline. The 15 warps of an SM have some
//            ten float4 per lane in flight, 75 KiB, where 25 hide the latency.
// Counts     x once, t halo TILE TILE, weight tile, bias tile, gammas tile, y once; 160 bytes a thread
// Numerics   accumulates in f32.
// Needs      nothing.
// Tunables   TILE.
// Reference  src/ops/depthwise_residual.rs
#include "common.cuh"

constexpr u32 TILE = 3;
constexpr u32 THREADS = 512;
constexpr u32 WARP_CHANNELS = 128;
#include "depthwise_3x3.cuh"
static_assert(WARP_CHANNELS == 32 * VEC, "a thread has four channels");

KERNEL(depthwise_residual_3x3) {
    const u32 c = a.out.c, h = a.out.h, w = a.out.w, channel = threadIdx.x * VEC;
    const u32 first_row = blockIdx.y * TILE, first_col = blockIdx.x * TILE;
    if (channel >= c) return;
    const auto element = [&](u32 row, u32 col) { return ((blockIdx.z * h + row) * w + col) * c + channel; };
    // Input coordinate i - 1, clamped to the image: this repeats the edge.
    const auto clamped = [](u32 i, u32 count) { return min_of(i > 0 ? i - 1 : 0, count - 1); };

    const Tile t = convolve(a.tensor(2), a.tensor(3), channel, [&](u32 i, u32 j) {
        return load_float4(a.real(1), element(clamped(first_row + i, h), clamped(first_col + j, w)));
    });
    Float4 x[TILE * TILE]; // all loads in flight at once
#pragma unroll
    for (u32 p = 0; p < TILE * TILE; ++p) {
        x[p] = load_float4(a.real(0), element(min_of(first_row + p / TILE, h - 1), min_of(first_col + p % TILE, w - 1)));
    }
    const float gamma = a.tensor(4)[2];
#pragma unroll
    for (u32 p = 0; p < TILE * TILE; ++p) {
        const u32 row = first_row + p / TILE, col = first_col + p % TILE;
        if (row >= h || col >= w) continue;
        for (u32 k = 0; k < VEC; ++k) x[p][k] += gamma * t.at[p / TILE][p % TILE][k];
        store_float4(a, element(row, col), x[p]);
    }
}
