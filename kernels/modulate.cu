// modulate: y = x (1 + a) + b, a and b from the current step's row of a table
//
// x        [n, h, w, c] f32; may be out
// table    [n or 1, 1, steps, 2c] f32: a, then b
// counter  [1, 1, 1, 1] u32
// out      [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads x once, writes y once; the table's rows stay in L1.
// Numerics   f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/modulate.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(modulate) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 c = i % a.out.c;
    const u32 image = a.shape[1].n == 1 ? 0 : i / a.out.c / a.out.tokens();
    const float* ab = a.real(1) + (image * a.shape[1].w + a.index(2)[0]) * a.shape[1].c;
    a.store(i, a.real(0)[i] * (1.0f + ab[c]) + ab[a.out.c + c]);
}
