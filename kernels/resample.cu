// resample: bilinear interpolation with aligned corners
//
// x       [n, h, w, c] f32
// out     [n, height, width, c] f32 or bf16
//
// Launch     one thread per element of out.
// Shared     none.
// Memory     reads four neighbours for each element, mostly from L1; writes y once.
// Counts     x once, y once; 16 bytes a thread
// Numerics   f32; source positions are computed in PyTorch's order of operations.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/resample.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

// For output pixel o of m along an axis of n input pixels: the two input pixels, and the weight of the second.
struct Source {
    u32 first, second;
    float weight;
    DEVICE Source(u32 o, u32 m, u32 n) {
        const float at = (m > 1 ? float(n - 1) / float(m - 1) : 0.0f) * float(o);
        first = min_of(u32(at), n - 1);
        second = min_of(first + 1, n - 1);
        weight = at - float(first);
    }
};

KERNEL(resample) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 c = a.out.c, ch = i % c, col = i / c % a.out.w, row = i / c / a.out.w % a.out.h;
    const Shape& from = a.shape[0];
    const Source y(row, a.out.h, from.h), x(col, a.out.w, from.w);
    const float* image = a.real(0) + i / c / a.out.w / a.out.h * from.tokens() * c + ch;
    const auto at = [&](u32 r, u32 q) { return image[(r * from.w + q) * c]; };
    const float top = at(y.first, x.first) * (1.0f - x.weight) + at(y.first, x.second) * x.weight;
    const float bottom = at(y.second, x.first) * (1.0f - x.weight) + at(y.second, x.second) * x.weight;
    a.store(i, top * (1.0f - y.weight) + bottom * y.weight);
}
