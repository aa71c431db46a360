// activation: y = f(x)
//
// x       [n, h, w, c] f32; may be out
// out     [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads x once, writes y once.
// Counts     x once, y once; 4 bytes a thread
// Numerics   f32; CUDA's expf.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/activation.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(activation) {
    const u32 i = this_element();
    if (i < a.out.elements()) a.store(i, apply(a.constant[0], a.real(0)[i]));
}
