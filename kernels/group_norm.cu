// group_norm: y = f((x - mean) / sqrt(var + eps) * weight + bias), over all pixels and a group's channels
//
// x             [n, h, w, c] f32
// weight, bias  [c] any type
// out           [n, h, w, c] f32, never x
//
// Launch     one block per group and image.
// Shared     one float per warp.
// Memory     reads x three times, writes y once.
// Numerics   accumulates in f32; the variance takes a second pass, since the mean may be far larger than the deviation.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/group_norm.rs
#include "common.cuh"

constexpr u32 THREADS = 512;

struct Sums {
    float parts[THREADS / 32];
};

KERNEL(group_norm) {
    SHARED(Sums, s);
    const u32 c = a.out.c, channels = c / a.constant[0], group = blockIdx.x;
    const u32 count = a.out.tokens() * channels, image = blockIdx.y * a.out.tokens() * c;
    const auto at = [&](u32 i) { return image + i / channels * c + group * channels + i % channels; };

    const float* x = a.real(0);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += THREADS) sum += x[at(i)];
    const float mean = block_sum(sum, s.parts) / float(count);
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += THREADS) squares += (x[at(i)] - mean) * (x[at(i)] - mean);
    const float rstd = 1.0f / sqrtf(block_sum(squares, s.parts) / float(count) + a.number(1));

    const Tensor weight = a.tensor(1), bias = a.tensor(2);
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        const u32 ch = group * channels + i % channels;
        a.store(at(i), apply(a.constant[2], (x[at(i)] - mean) * rstd * weight[ch] + bias[ch]));
    }
}
