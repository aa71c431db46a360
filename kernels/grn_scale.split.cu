// grn_scale: partial sums over parts of the pixels, so that even few channels fill a GPU; c is a multiple of four
//
// Operands as in grn_scale.cu, but
// scratch [PARTS, n, 1, 1, c] f32: partial sums of squares; later G, in place of the first part
//
// Launch     grn_scale_split_sums: one block per CHANNELS channels, part and image; then
//            grn_scale_split: one block per image.
// Shared     16 KiB.
// Memory     reads x once, 256 (bf16) or 512 contiguous bytes per warp. The 2048 threads of an SM have four vectors each in
//            flight, 64 or 128 KiB, where the bandwidth times latency of an H100 is 20 KiB. The second launch reads
//            4 * PARTS bytes per channel: 128 KiB for 8192 channels, a twentieth to a hundredth of x.
//            If the linear layer before has left sums of squares (grn_squares.cuh), these are read instead of x.
// Counts     x once, gamma once, y once, scratch 2; 64 bytes a thread
// Numerics   accumulates in f32 per warp, then over warps, then over parts, always in the same order.
// Needs      nothing.
// Tunables   PARTS.
// Reference  src/ops/grn_scale.rs
#include "float4.cuh"
#include "grn_squares.cuh"

constexpr u32 PARTS = 4;
constexpr u32 CHANNELS = 128;
constexpr u32 THREADS = 1024;
constexpr u32 WARPS = THREADS / 32;
static_assert(CHANNELS == 32 * VEC, "four channels per lane");

struct WarpSums {
    float of_warp[WARPS][CHANNELS];
};

// Sums of four channels from element `first` on, or of their squares, over every WARPS-th pixel.
template <u32 KIND, bool SQUARED> DEVICE Float4 sum_of(const void* x, u32 first, u32 pixel, u32 end, u32 c) {
    Float4 sums = {};
#pragma unroll 4
    for (; pixel < end; pixel += WARPS) {
        const Float4 v = load_float4<KIND>(x, first + pixel * c);
        for (u32 k = 0; k < VEC; ++k) sums[k] += SQUARED ? v[k] * v[k] : v[k];
    }
    return sums;
}

KERNEL(grn_scale_split_sums) {
    SHARED(WarpSums, s);
    const Shape& shape = a.shape[0];
    const u32 c = shape.c, channel = blockIdx.x * CHANNELS + lane() * VEC, part = blockIdx.y, image = blockIdx.z;
    const u32 tokens = shape.tokens() / (a.squares() ? PART_ROWS : 1), pixels = div_up(tokens, PARTS);
    const u32 begin = part * pixels + warp(), end = min_of((part + 1) * pixels, tokens);
    Float4 sums = {};
    if (channel < c) {
        const u32 first = image * tokens * c + channel;
        const Tensor x = a.tensor(0);
        sums = a.squares()     ? sum_of<F32, false>(a.squares(), first, begin, end, c)
               : x.kind == BF16 ? sum_of<BF16, true>(x.at, first, begin, end, c)
                                : sum_of<F32, true>(x.at, first, begin, end, c);
    }
    for (u32 k = 0; k < VEC; ++k) s.of_warp[warp()][lane() * VEC + k] = sums[k];
    __syncthreads();
    const u32 mine = blockIdx.x * CHANNELS + threadIdx.x;
    if (threadIdx.x >= CHANNELS || mine >= c) return;
    float sum = 0.0f;
    for (u32 i = 0; i < WARPS; ++i) sum += s.of_warp[i][threadIdx.x];
    a.scratch()[(part * shape.n + image) * c + mine] = sum;
}

struct Sums {
    float of_warp[WARPS];
};

KERNEL(grn_scale_split) {
    SHARED(Sums, s);
    const u32 c = a.out.c, first = blockIdx.x * c, stride = a.out.n * c;
    float* squares = a.scratch() + first;
    float sum = 0.0f;
    for (u32 i = threadIdx.x * VEC; i < c; i += THREADS * VEC) {
        Float4 norms = load_float4(squares, i);
#pragma unroll
        for (u32 part = 1; part < PARTS; ++part) {
            const Float4 more = load_float4(squares, part * stride + i);
            for (u32 k = 0; k < VEC; ++k) norms[k] += more[k];
        }
        for (u32 k = 0; k < VEC; ++k) squares[i + k] = norms[k] = sqrtf(norms[k]); // only this thread reads it back
        sum += norms.sum();
    }
    const float per_norm = 1.0f / (block_sum(sum, s.of_warp) / float(c) + a.number(0));
    for (u32 i = threadIdx.x * VEC; i < c; i += THREADS * VEC) {
        const Float4 norms = load_float4(squares, i), gamma = load_float4(a.tensor(1), i);
        Float4 y;
        for (u32 k = 0; k < VEC; ++k) y[k] = 1.0f + gamma[k] * norms[k] * per_norm;
        store_float4(a, first + i, y);
    }
}
