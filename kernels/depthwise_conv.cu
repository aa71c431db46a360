// depthwise_conv: depthwise convolution with zero padding
//
// x       [n, h, w, c] f32
// weight  [c, 1, k, k] any type, k odd
// out     [n, ceil(h / stride), ceil(w / stride), c] f32 or bf16
//
// Launch     one thread per element of out.
// Shared     none.
// Memory     each x is read k^2 / stride^2 times, mostly from L1; writes y once.
// Numerics   accumulates in f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/depthwise_conv.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(depthwise_conv) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 c = a.out.c, ch = i % c, col = i / c % a.out.w, row = i / c / a.out.w % a.out.h;
    const Shape& from = a.shape[0];
    const u32 k = a.shape[1].w, stride = a.constant[0];
    const float* image = a.real(0) + i / c / a.out.w / a.out.h * from.tokens() * c + ch;
    const Tensor weight = a.tensor(1);
    float sum = 0.0f;
    for (u32 ky = 0; ky < k; ++ky) {
        for (u32 kx = 0; kx < k; ++kx) {
            // Outside the image the coordinate wraps around and fails the bounds test.
            const u32 y = row * stride + ky - k / 2, x = col * stride + kx - k / 2;
            if (y < from.h && x < from.w) sum += image[(y * from.w + x) * c] * weight[(ch * k + ky) * k + kx];
        }
    }
    a.store(i, sum);
}
