// Per-channel sums over the pixels of an image, shared by mean and grn_scale.
#pragma once
#include "common.cuh"

constexpr u32 CHANNELS = 32; // per block, contiguous in memory
constexpr u32 THREADS = 256;

struct Strips {
    float sums[THREADS / 32][CHANNELS];
};

// Sum of f(x) over the pixels of image blockIdx.y, for channel blockIdx.x * CHANNELS + lane(); the first warp returns it.
// Each warp sums every (THREADS / 32)-th pixel; the order of additions is fixed.
template <class F> DEVICE float sum_of_channel(Strips& s, const Tensor& x, const Shape& shape, F f) {
    const u32 channel = blockIdx.x * CHANNELS + lane(), tokens = shape.tokens();
    float sum = 0.0f;
    if (channel < shape.c) {
        const u32 image = blockIdx.y * tokens * shape.c + channel;
        for (u32 token = warp(); token < tokens; token += THREADS / 32) sum += f(x[image + token * shape.c]);
    }
    s.sums[warp()][lane()] = sum;
    __syncthreads();
    float total = 0.0f;
    for (u32 i = 0; i < THREADS / 32; ++i) total += s.sums[i][lane()];
    return total;
}
