// count_non_finite: how many elements are NaN or infinite
//
// x       [n, h, w, c] f32
// out     [1, 1, 1, 1] u32
//
// Launch     count_non_finite_clear: one thread; then count_non_finite: EACH elements per thread, a block width apart.
// Shared     none.
// Memory     reads x once, all of a thread's elements at a time: 32 KiB in flight on an SM with 2048 threads, where the
//            bandwidth times latency of an H100 is 20 KiB.
// Counts     x once, y once; 16 bytes a thread
// Numerics   integer counts, so the order of additions does not matter.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/count_non_finite.rs
#include "common.cuh"

constexpr u32 THREADS = 256;
constexpr u32 PER_THREAD = 4;
constexpr u32 ELEMENTS = 1024;
static_assert(ELEMENTS == THREADS * PER_THREAD, "EACH elements per thread");

KERNEL(count_non_finite_clear) {
    if (threadIdx.x == 0) static_cast<u32*>(a.out_at)[0] = 0;
}

KERNEL(count_non_finite) {
    const u32 elements = a.shape[0].elements(), first = blockIdx.x * ELEMENTS + threadIdx.x;
    u32 bits[PER_THREAD];
#pragma unroll
    for (u32 e = 0; e < PER_THREAD; ++e) bits[e] = a.index(0)[min_of(first + e * THREADS, elements - 1)];
    u32 count = 0; // over the warp
#pragma unroll
    for (u32 e = 0; e < PER_THREAD; ++e) {
        // All exponent bits are set.
        const bool counts = first + e * THREADS < elements && (bits[e] & 0x7f800000u) == 0x7f800000u;
        count += __popc(__ballot_sync(0xffffffffu, counts));
    }
    if (lane() == 0 && count != 0) atomicAdd(static_cast<u32*>(a.out_at), count);
}
