// depthwise_norm: a window of 3 x 3, a tile of pixels in registers; c is a multiple of four, at most 2048
//
// Operands as in depthwise_norm.cu; no scratch.
//
// Launch     one block for every TILE x TILE pixels, with a warp for every WARP_CHANNELS channels, a quad a thread.
// Shared     1 KiB.
// Memory     reads x 2.8 times (25 quads for 9 results), by the way of L2, from memory once; the weights once a block;
//            writes y once. 24 x 24 pixels of two images and 2048 channels: 128 blocks, 26 MB of x, 5 MB of weights and
//            5 MB of y by L2, 14 MB from and to memory. An A100's L2 moves 2.3 times as much as its memory, so that both take
//            about as long; an H100's 1.6 times, where depthwise_norm.*.sm90a.cu serve. Larger tiles would read less, but
//            leave processors idle where it matters.
// Counts     x halo TILE TILE, weight tile, bias tile, y once; 160 bytes a thread
// Numerics   f32 sums, variance in a second pass, over registers.
// Needs      nothing.
// Tunables   TILE.
// Reference  src/ops/depthwise_norm.rs
#include "common.cuh"

constexpr u32 TILE = 3;
constexpr u32 THREADS = 512;
constexpr u32 WARP_CHANNELS = 128;
#include "warp_sums.cuh"
#include "window3.cuh"

constexpr u32 PIXELS = TILE * TILE;
static_assert(WARP_CHANNELS == 32 * QUAD, "threads have quads");

struct Parts {
    float of_warp[THREADS / 32][PLACES];
};

// Sums over the block of f(pixel), in every thread; always in the same order.
template <class F> DEVICE void sums_of_block(float (&sums)[PIXELS], Parts& s, const F& f) {
    const float of_warp = sums_of_warp<PIXELS>(f);
    __syncthreads(); // the sums before may still be being read
    if (lane() % 2 == 0) s.of_warp[warp()][lane() / 2] = of_warp;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < blockDim.x / 32; ++i) sum += s.of_warp[i][lane() % PLACES];
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) sums[p] = __shfl_sync(0xffffffffu, sum, p);
}

KERNEL(depthwise_norm_window3) {
    SHARED(Parts, s);
    const u32 c = a.out.c, h = a.out.h, w = a.out.w, channel = threadIdx.x * QUAD;
    const u32 first_row = blockIdx.y * TILE, first_col = blockIdx.x * TILE;
    const bool inside = channel < c;
    const auto element = [&](u32 row, u32 col) { return ((blockIdx.z * h + row) * w + col) * c + channel; };

    Tile y = {};
    if (inside) {
        y = convolve(a.tensor(1), a.tensor(2), channel, [&](u32 i, u32 j) {
            const u32 row = first_row + i - 1, col = first_col + j - 1; // above 0, they wrap round and are too large
            Quad x = load_quad(a.real(0), element(row < h ? row : 0, col < w ? col : 0));
            for (u32 k = 0; k < QUAD; ++k) x[k] = row < h && col < w ? x[k] : 0.0f;
            return x;
        });
    }
    const auto pixel = [&](u32 p) -> Quad& { return y.at[p / TILE][p % TILE]; };

    float mean[PIXELS], rstd[PIXELS];
    sums_of_block(mean, s, [&](u32 p) { return pixel(p).sum(); });
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) {
        mean[p] /= float(c);
        for (u32 k = 0; k < QUAD; ++k) pixel(p)[k] -= mean[p];
    }
    sums_of_block(rstd, s, [&](u32 p) {
        float squares = 0.0f;
        for (u32 k = 0; k < QUAD; ++k) squares += pixel(p)[k] * pixel(p)[k];
        return inside ? squares : 0.0f;
    });
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) {
        const u32 row = first_row + p / TILE, col = first_col + p % TILE;
        const float factor = 1.0f / sqrtf(rstd[p] / float(c) + a.number(0));
        for (u32 k = 0; k < QUAD; ++k) pixel(p)[k] *= factor;
        if (inside && row < h && col < w) store_quad(a, element(row, col), pixel(p));
    }
}
