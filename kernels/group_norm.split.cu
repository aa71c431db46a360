// group_norm: moments over parts of the pixels, so that any tensor fills a GPU; c is a multiple of four
//
// Operands as in group_norm.cu, but
// scratch [parts + 1, n, 1, 1, c, MOMENTS] f32: each channel's mean and squared deviations in every PIXELS pixels; in the last
//         row, the mean to subtract from a channel's values and the factor to multiply them by
//
// Launch     group_norm_split_moments: one block per PIXELS pixels and CHANNELS channels of each image;
//            group_norm_split_groups: one block per group and image;
//            group_norm_split: grid as the first, in reverse order of pixels.
// Shared     16 KiB.
// Memory     reads x twice and writes y once, 512 contiguous bytes per warp. The second read hits L2 as far as L2 holds x
//            (some 40 MB on an H100); the last pass therefore starts with what the first read last. 64 x 64 pixels of two
//            images and 320 channels: 10 MB from memory and 10 MB to it, the minimum, and 32 MB by L2, which take nine
//            tenths of that time; 384 blocks, where 396 fit at once in the first pass and 264 in the last. A tensor far
//            larger than L2 costs 12 bytes per value, as with any kernel. The 2 or 3 blocks of an SM have 64 or 96 KiB in
//            flight, where 25 hide the latency. Moments are a 32nd of x.
// Counts     x twice, weight once, bias once, y once, scratch 2; 64 bytes a thread
// Numerics   f32. Squared deviations are taken around each thread's own mean and then merged: as accurate as two passes
//            even if the mean is far larger than the deviation. The order of additions is fixed.
// Needs      nothing.
// Tunables   PIXELS.
// Reference  src/ops/group_norm.rs
#include "float4.cuh"

constexpr u32 PIXELS = 64;
constexpr u32 CHANNELS = 128;
constexpr u32 MOMENTS = 2;
constexpr u32 THREADS = 512;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 ROUNDS = PIXELS / WARPS; // pixels per thread
static_assert(CHANNELS == 32 * VEC, "four channels per lane");

// Mean of `count` values, and their sum of squared deviations.
struct Moments {
    float count, mean, squares;

        // Merges another set of values into this one. Chan, Golub, LeVeque 1979.
    DEVICE void add(const Moments& other) {
        if (other.count == 0.0f) return;
        const float all = count + other.count, delta = other.mean - mean, share = other.count / all;
        mean += delta * share;
        squares += other.squares + delta * delta * count * share;
        count = all;
    }
};

// A thread's part of the input: ROUNDS pixels of four channels.
struct Slice {
    u32 channel, pixel, count; // pixels that exist
    u32 first;                 // index of the first element
    Float4 x[ROUNDS];

    DEVICE Slice(const Args& a, u32 part, u32 image) {
        const u32 c = a.out.c, tokens = a.out.tokens();
        channel = blockIdx.y * CHANNELS + lane() * VEC;
        pixel = part * PIXELS + warp() * ROUNDS;
        count = min_of(tokens - min_of(pixel, tokens), ROUNDS);
        first = image * tokens * c + min_of(channel, c - VEC);
#pragma unroll
        for (u32 r = 0; r < ROUNDS; ++r) x[r] = load_float4(a.real(0), first + min_of(pixel + r, tokens - 1) * c);
    }
};

struct PartMoments {
    float4 means[WARPS][32], squares[WARPS][32];
};

KERNEL(group_norm_split_moments, 3) {
    SHARED(PartMoments, s);
    const u32 c = a.out.c, tokens = a.out.tokens(), part = blockIdx.x, image = blockIdx.z;
    const Slice slice(a, part, image);
    Float4 means = {}, squares = {};
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        for (u32 k = 0; k < VEC; ++k) means[k] += r < slice.count ? slice.x[r][k] : 0.0f;
    }
    for (u32 k = 0; k < VEC; ++k) means[k] /= fmaxf(float(slice.count), 1.0f);
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        for (u32 k = 0; k < VEC; ++k) {
            const float delta = slice.x[r][k] - means[k];
            squares[k] += r < slice.count ? delta * delta : 0.0f;
        }
    }
    s.means[warp()][lane()] = {means[0], means[1], means[2], means[3]};
    s.squares[warp()][lane()] = {squares[0], squares[1], squares[2], squares[3]};
    __syncthreads();
    const u32 mine = threadIdx.x, channel = blockIdx.y * CHANNELS + mine;
    if (mine >= CHANNELS || channel >= c) return;
    Moments all = {};
    for (u32 i = 0; i < WARPS; ++i) {
        const u32 pixel = part * PIXELS + i * ROUNDS, count = min_of(tokens - min_of(pixel, tokens), ROUNDS);
        all.add({float(count), (&s.means[i][0].x)[mine], (&s.squares[i][0].x)[mine]});
    }
    float2* to = reinterpret_cast<float2*>(a.scratch());
    to[(part * a.out.n + image) * c + channel] = {all.mean, all.squares};
}

struct GroupMoments {
    Moments of_warp[WARPS];
};

KERNEL(group_norm_split_groups) {
    SHARED(GroupMoments, s);
    const u32 c = a.out.c, channels = c / a.constant[0], group = blockIdx.x, image = blockIdx.y;
    const u32 tokens = a.out.tokens(), parts = div_up(tokens, PIXELS);
    float2* of = reinterpret_cast<float2*>(a.scratch()) + image * c + group * channels;
    Moments all = {};
    for (u32 i = threadIdx.x; i < parts * channels; i += THREADS) {
        const u32 part = i / channels;
        const float2 more = of[part * a.out.n * c + i % channels];
        all.add({float(min_of(tokens - part * PIXELS, PIXELS)), more.x, more.y});
    }
    for (u32 step = 16; step > 0; step /= 2) {
        const Moments more = {__shfl_xor_sync(0xffffffffu, all.count, step), __shfl_xor_sync(0xffffffffu, all.mean, step),
                              __shfl_xor_sync(0xffffffffu, all.squares, step)};
        all.add(more);
    }
    if (lane() == 0) s.of_warp[warp()] = all;
    __syncthreads();
    all = s.of_warp[0];
    for (u32 i = 1; i < WARPS; ++i) all.add(s.of_warp[i]);
    const float rstd = 1.0f / sqrtf(all.squares / all.count + a.number(1));
    for (u32 i = threadIdx.x; i < channels; i += THREADS) {
        of[parts * a.out.n * c + i] = {all.mean, rstd * a.tensor(1)[group * channels + i]};
    }
}

KERNEL(group_norm_split, 2) {
    const u32 c = a.out.c, parts = gridDim.x, part = parts - 1 - blockIdx.x, image = gridDim.z - 1 - blockIdx.z;
    const Slice slice(a, part, image);
    if (slice.channel >= c) return;
    const u32 to = ((parts * a.out.n + image) * c + slice.channel) * MOMENTS;
    const Float4 first = load_float4(a.scratch(), to), second = load_float4(a.scratch(), to + VEC);
    const Float4 bias = load_float4(a.tensor(2), slice.channel);
    const float means[VEC] = {first[0], first[2], second[0], second[2]};
    const float factors[VEC] = {first[1], first[3], second[1], second[3]};
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        Float4 y;
        for (u32 k = 0; k < VEC; ++k) y[k] = apply(a.constant[2], (slice.x[r][k] - means[k]) * factors[k] + bias[k]);
        if (r < slice.count) store_float4(a, slice.first + (slice.pixel + r) * c, y);
    }
}
