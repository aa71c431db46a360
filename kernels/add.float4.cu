// add: four elements per thread; c is a multiple of four
//
// Operands as in add.cu.
//
// Launch     one thread per float4.
// Shared     none.
// Memory     reads a and b once and writes y once, 16 bytes per thread each (8 for bf16): 64 KiB in flight on an SM with
//            2048 threads, where the bandwidth times latency of an H100 is 20 KiB.
// Counts     a once, b once, y once; 32 bytes a thread
// Numerics   f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/add.rs
#include "float4.cuh"

constexpr u32 THREADS = 256;
constexpr u32 ELEMENTS = 1024;
static_assert(ELEMENTS == THREADS * VEC, "one float4 per thread");

KERNEL(add_float4) {
    const u32 i = this_element() * VEC;
    if (i >= a.out.elements()) return;
    const u32 of_b = a.shape[1].n == 1 ? i % a.shape[1].elements() : i;
    Float4 y = load_float4(a.real(0), i);
    const Float4 b = load_float4(a.real(1), of_b);
    for (u32 k = 0; k < VEC; ++k) y[k] += b[k];
    store_float4(a, i, y);
}
