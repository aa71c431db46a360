// pixel_unshuffle: y[row, col, ch p^2 + i p + j] = x[row p + i, col p + j, ch]
//
// x       [n, h p, w p, c] f32 or bf16; rows and columns that do not fill a patch are ignored
// out     [n, h, w, c p^2] f32 or bf16
//
// Launch     one thread per element of out.
// Shared     none.
// Memory     reads x once, single elements with a stride of its channels; writes y once.
// Counts     x once, y once; 2 bytes a thread
// Numerics   exact: values are copied.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/pixel_unshuffle.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(pixel_unshuffle) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 p = a.constant[0], ch = i % a.out.c, pixel = i / a.out.c;
    const Shape& x = a.shape[0];
    const u32 row = pixel / a.out.w % a.out.h * p + ch / p % p, col = pixel % a.out.w * p + ch % p;
    a.store(i, a.tensor(0)[((pixel / a.out.tokens() * x.h + row) * x.w + col) * x.c + ch / (p * p)]);
}
