// add: four elements a thread; c is a multiple of four
//
// Operands as in add.cu.
//
// Launch     one thread a quad.
// Shared     none.
// Memory     reads a and b once, writes y once, 16 bytes a thread each (8 of bf16): 64 KiB under way on a processor
//            of 2048 threads, where an H100's rate and latency need 20.
// Counts     a once, b once, y once; 32 bytes a thread
// Numerics   f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/add.rs
#include "quad.cuh"

constexpr u32 THREADS = 256;
constexpr u32 ELEMENTS = 1024;
static_assert(ELEMENTS == THREADS * QUAD, "a quad a thread");

KERNEL(add_quads) {
    const u32 i = this_element() * QUAD;
    if (i >= a.out.elements()) return;
    const u32 of_b = a.shape[1].n == 1 ? i % a.shape[1].elements() : i;
    Quad y = load_quad(a.real(0), i);
    const Quad b = load_quad(a.real(1), of_b);
    for (u32 k = 0; k < QUAD; ++k) y[k] += b[k];
    store_quad(a, i, y);
}
