// pixel_unshuffle: y[row, col, ch p^2 + i p + j] = x[row p + i, col p + j, ch]
//
// x       [n, h p, w p, c] f32 or bf16
// out     [n, h, w, c p^2] f32 or bf16
//
// Launch     one thread an element of out.
// Shared     none.
// Memory     reads x once, in pieces of 4 bytes c apart; writes y once.
// Numerics   copies.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/pixel_unshuffle.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(pixel_unshuffle) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 p = a.constant[0], ch = i % a.out.c;
    const u32 col = i / a.out.c % a.out.w * p + ch % p;
    const u32 line = i / a.out.c / a.out.w * p + ch / p % p; // counts over images, of which each has whole patches
    a.store(i, a.tensor(0)[(line * a.shape[0].w + col) * a.shape[0].c + ch / (p * p)]);
}
