// leaky_relu: y = x where x is positive, else slope x
//
// x       [n, h, w, c] f32; may be out
// out     [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads x once, writes y once.
// Counts     x once, y once; 4 bytes a thread
// Numerics   f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/leaky_relu.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(leaky_relu) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const float x = a.real(0)[i];
    a.store(i, x > 0.0f ? x : a.number(0) * x);
}
