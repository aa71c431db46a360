// depthwise_norm: 3 x 3 kernel, a tile of pixels in registers; c is a multiple of four, at most 2048
//
// Operands as in depthwise_norm.cu; no scratch.
//
// Launch     one block per TILE x TILE pixels, with one warp per WARP_CHANNELS channels and one float4 per thread.
// Shared     1 KiB.
// Memory     reads x 2.8 times (25 input pixels for 9 results) from L2, once from memory; the weights once per block;
//            writes y once. 24 x 24 pixels of two images and 2048 channels: 128 blocks; 26 MB of x, 5 MB of weights and
//            5 MB of y by L2, 14 MB from and to memory. An A100's L2 has 2.3 times the bandwidth of its memory, so both
//            take about as long; an H100's has 1.6 times, so depthwise_norm.*.sm90a.cu serve there. Larger tiles would
//            read less but leave SMs idle at the sizes that matter.
// Counts     x halo TILE TILE, weight tile, bias tile, y once; 160 bytes a thread
// Numerics   accumulates in f32; the variance takes a second pass, over registers.
// Needs      nothing.
// Tunables   TILE.
// Reference  src/ops/depthwise_norm.rs
#include "common.cuh"

constexpr u32 TILE = 3;
constexpr u32 THREADS = 512;
constexpr u32 WARP_CHANNELS = 128;
#include "warp_sums.cuh"
#include "depthwise_3x3.cuh"

constexpr u32 PIXELS = TILE * TILE;
static_assert(WARP_CHANNELS == 32 * VEC, "a thread has four channels");

struct WarpSums {
    float of_warp[THREADS / 32][WARP_SUMS];
};

// Sums of f(pixel) over the block, returned in every thread; the order of additions is fixed.
template <class F> DEVICE void block_sums(float (&sums)[PIXELS], WarpSums& s, const F& f) {
    const float of_warp = warp_sums<PIXELS>(f);
    __syncthreads(); // the previous sums may still be being read
    if (lane() % 2 == 0) s.of_warp[warp()][lane() / 2] = of_warp;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < blockDim.x / 32; ++i) sum += s.of_warp[i][lane() % WARP_SUMS];
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) sums[p] = __shfl_sync(0xffffffffu, sum, p);
}

KERNEL(depthwise_norm_3x3) {
    SHARED(WarpSums, s);
    const u32 c = a.out.c, h = a.out.h, w = a.out.w, channel = threadIdx.x * VEC;
    const u32 first_row = blockIdx.y * TILE, first_col = blockIdx.x * TILE;
    const bool inside = channel < c;
    const auto element = [&](u32 row, u32 col) { return ((blockIdx.z * h + row) * w + col) * c + channel; };

    Tile y = {};
    if (inside) {
        y = convolve(a.tensor(1), a.tensor(2), channel, [&](u32 i, u32 j) {
            const u32 row = first_row + i - 1, col = first_col + j - 1; // -1 wraps around and fails the bounds test
            Float4 x = load_float4(a.real(0), element(row < h ? row : 0, col < w ? col : 0));
            for (u32 k = 0; k < VEC; ++k) x[k] = row < h && col < w ? x[k] : 0.0f;
            return x;
        });
    }
    const auto pixel = [&](u32 p) -> Float4& { return y.at[p / TILE][p % TILE]; };

    float mean[PIXELS], rstd[PIXELS];
    block_sums(mean, s, [&](u32 p) { return pixel(p).sum(); });
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) {
        mean[p] /= float(c);
        for (u32 k = 0; k < VEC; ++k) pixel(p)[k] -= mean[p];
    }
    block_sums(rstd, s, [&](u32 p) {
        float squares = 0.0f;
        for (u32 k = 0; k < VEC; ++k) squares += pixel(p)[k] * pixel(p)[k];
        return inside ? squares : 0.0f;
    });
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) {
        const u32 row = first_row + p / TILE, col = first_col + p % TILE;
        const float factor = 1.0f / sqrtf(rstd[p] / float(c) + a.number(0));
        for (u32 k = 0; k < VEC; ++k) pixel(p)[k] *= factor;
        if (inside && row < h && col < w) store_float4(a, element(row, col), pixel(p));
    }
}
