// pixel_shuffle: y[row p + i, col p + j, ch] = x[row, col, ch p^2 + i p + j]
//
// x       [n, h, w, c p^2] f32 or bf16
// out     [n, h p, w p, c] f32 or bf16
//
// Launch     one thread per element of out.
// Shared     none.
// Memory     reads x once, single elements with stride p^2; writes y once.
// Counts     x once, y once; 4 bytes a thread
// Numerics   exact: values are copied.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/pixel_shuffle.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(pixel_shuffle) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 p = a.constant[0], ch = i % a.out.c, col = i / a.out.c % a.out.w;
    const u32 line = i / a.out.c / a.out.w; // a row index over all images, each of which is a whole number of patches
    const u32 pixel = line / p * a.shape[0].w + col / p;
    a.store(i, a.tensor(0)[pixel * a.shape[0].c + (ch * p + line % p) * p + col % p]);
}
