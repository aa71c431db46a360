// guide_projected: p cond + q (cond - uncond), with p and q from sums over the image, so that guidance keeps the prediction's
// direction or contrast
//
// eps       [2n, h, w, c] f32, conditional images first
// guidance  [1, 1, steps, 3] f32: g, rescale, parallel
// counter   [1, 1, 1, 1] u32
// out       [n, h, w, c] f32 or bf16
//
// Launch     one block per image.
// Shared     one float per warp.
// Memory     reads eps three times, writes out once.
// Numerics   f32; each thread adds every THREADS-th value, then the threads' sums are added. The variances take a second pass,
//            about the mean of the first.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/guide_projected.rs
#include "common.cuh"

constexpr u32 THREADS = 512;

struct Sums {
    float parts[THREADS / 32];
};

KERNEL(guide_projected) {
    SHARED(Sums, s);
    const u32 image = a.out.tokens() * a.out.c;
    const float* cond = a.real(0) + blockIdx.x * image;
    const float* uncond = a.real(0) + (a.out.n + blockIdx.x) * image;
    const float* step = a.real(1) + 3 * a.index(2)[0];
    const float g = step[0], rescale = step[1], parallel = step[2];

    float sum_cond = 0.0f, sum_differs = 0.0f, length = 0.0f, product = 0.0f;
    for (u32 i = threadIdx.x; i < image; i += THREADS) {
        const float e = cond[i], d = e - uncond[i];
        sum_cond += e;
        sum_differs += d;
        length += e * e;
        product += e * d;
    }
    sum_cond = block_sum(sum_cond, s.parts);
    sum_differs = block_sum(sum_differs, s.parts);
    length = block_sum(length, s.parts);
    product = block_sum(product, s.parts);
    const float along = length > 0.0f ? product / length : 0.0f;
    const float p = 1.0f - (g - 1.0f) * (1.0f - parallel) * along, q = g - 1.0f;

    const float mean_before = sum_cond / float(image), mean_after = (p * sum_cond + q * sum_differs) / float(image);
    float before = 0.0f, after = 0.0f;
    for (u32 i = threadIdx.x; i < image; i += THREADS) {
        const float e = cond[i], d = e - uncond[i];
        const float of_cond = e - mean_before, of_guided = p * e + q * d - mean_after;
        before += of_cond * of_cond;
        after += of_guided * of_guided;
    }
    before = block_sum(before, s.parts);
    after = block_sum(after, s.parts);
    const float ratio = after > 0.0f ? sqrtf(before / after) : 1.0f;
    const float factor = rescale * ratio + 1.0f - rescale;
    for (u32 i = threadIdx.x; i < image; i += THREADS) {
        const float e = cond[i], d = e - uncond[i];
        a.store(blockIdx.x * image + i, (p * e + q * d) * factor);
    }
}
