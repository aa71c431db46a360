// depthwise_norm: depthwise convolution with zero padding, then layer norm over the channels
//
// x       [n, h, w, c] f32
// weight  [c, 1, k, k] any type, k odd
// bias    [c] any type
// out     [n, h, w, c] f32 or bf16
// scratch [n, h, w, c] f32: the convolution
//
// Launch     one block per PIXELS pixels. Threads first split the channels to convolve, then warps the pixels to normalise.
// Shared     none.
// Memory     reads x k^2 times, mostly from L1 and L2; the weights once per block; writes scratch and reads it back from L1.
// Numerics   accumulates in f32; the variance takes a second pass.
// Needs      nothing.
// Tunables   PIXELS.
// Reference  src/ops/depthwise_norm.rs
#include "common.cuh"

constexpr u32 PIXELS = 8;
constexpr u32 THREADS = 256;
static_assert(THREADS == 32 * PIXELS, "one warp per pixel");

KERNEL(depthwise_norm) {
    const u32 c = a.out.c, h = a.out.h, w = a.out.w, k = a.shape[1].w;
    const u32 first = blockIdx.x * PIXELS, rows = a.out.rows();
    const Tensor weight = a.tensor(1), bias = a.tensor(2);

    for (u32 ch = threadIdx.x; ch < c; ch += THREADS) {
        float sums[PIXELS];
        for (u32 p = 0; p < PIXELS; ++p) sums[p] = bias[ch];
        for (u32 ky = 0; ky < k; ++ky) {
            for (u32 kx = 0; kx < k; ++kx) {
                const float factor = weight[(ch * k + ky) * k + kx];
                for (u32 p = 0; p < PIXELS; ++p) {
                    // Outside the image the coordinate wraps around and fails the bounds test.
                    const u32 pixel = first + p, x = pixel % w + kx - k / 2, y = pixel / w % h + ky - k / 2;
                    if (pixel < rows && x < w && y < h) {
                        sums[p] += a.real(0)[((pixel / w / h * h + y) * w + x) * c + ch] * factor;
                    }
                }
            }
        }
        for (u32 p = 0; p < PIXELS; ++p) {
            if (first + p < rows) a.scratch()[(first + p) * c + ch] = sums[p];
        }
    }
    __syncthreads(); // a warp reads what other warps wrote

    const u32 row = first + warp();
    if (row >= rows) return; // the whole warp, so no shuffle misses a lane
    const float* y = a.scratch() + row * c;
    float sum = 0.0f, squares = 0.0f;
    for (u32 ch = lane(); ch < c; ch += 32) sum += y[ch];
    const float mean = warp_sum(sum) / float(c);
    for (u32 ch = lane(); ch < c; ch += 32) squares += (y[ch] - mean) * (y[ch] - mean);
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / float(c) + a.number(0));
    for (u32 ch = lane(); ch < c; ch += 32) a.store(row * c + ch, (y[ch] - mean) * rstd);
}
