// gate: y = x sigmoid(s), s one value for each channel of an image
//
// x       [n, h, w, c] f32; may be out
// s       [n, 1, 1, c] f32
// out     [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads x once, writes y once; s stays in L1.
// Numerics   f32; expf may overflow, which is fine: 1 / inf is 0.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/gate.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(gate) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 image = i / (a.out.tokens() * a.out.c);
    const float s = a.real(1)[image * a.out.c + i % a.out.c];
    a.store(i, a.real(0)[i] / (1.0f + expf(-s)));
}
