// add: y = a + b, b the same for every image if its n is 1
//
// a       [n, h, w, c] f32; may be out
// b       [n or 1, h, w, c] f32
// out     [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads a and b once, writes y once.
// Numerics   f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/add.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(add) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 of_b = a.shape[1].n == 1 ? i % a.shape[1].elements() : i;
    a.store(i, a.real(0)[i] + a.real(1)[of_b]);
}
