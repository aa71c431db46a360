// depthwise_residual: y = x + gammas[2] (depthwise(t) + bias), t extended by repeating its edge
//
// x       [n, h, w, c] f32; may be out
// t       [n, h, w, c] f32
// weight  [c, 1, k, k] any type, k odd
// bias    [c] any type
// gammas  [6] any type
// out     [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads t k^2 times, mostly from L1, x once; writes y once.
// Numerics   accumulates in f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/depthwise_residual.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(depthwise_residual) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 c = a.out.c, h = a.out.h, w = a.out.w, k = a.shape[2].w;
    const u32 ch = i % c, col = i / c % w, row = i / c / w % h;
    const float* image = a.real(1) + i / c / w / h * a.out.tokens() * c + ch;
    const Tensor weight = a.tensor(2);
    float sum = a.tensor(3)[ch];
    for (u32 ky = 0; ky < k; ++ky) {
        for (u32 kx = 0; kx < k; ++kx) {
            const u32 y = row + ky < k / 2 ? 0 : min_of(row + ky - k / 2, h - 1);
            const u32 x = col + kx < k / 2 ? 0 : min_of(col + kx - k / 2, w - 1);
            sum += image[(y * w + x) * c] * weight[(ch * k + ky) * k + kx];
        }
    }
    a.store(i, a.real(0)[i] + a.tensor(4)[2] * sum);
}
