// count_non_finite: how many elements are NaN or infinite
//
// x       [n, h, w, c] f32
// out     [1, 1, 1, 1] u32
//
// Launch     count_non_finite_clear: one thread; then count_non_finite: one thread an element.
// Shared     none.
// Memory     reads x once.
// Numerics   whole numbers, so that the order of the additions is of no account.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/count_non_finite.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(count_non_finite_clear) {
    if (threadIdx.x == 0) static_cast<u32*>(a.out_at)[0] = 0;
}

KERNEL(count_non_finite) {
    const u32 i = this_element();
    // All bits of the exponent.
    const bool counts = i < a.shape[0].elements() && (a.index(0)[i] & 0x7f800000u) == 0x7f800000u;
    const u32 lanes = __ballot_sync(0xffffffffu, counts);
    if (lane() == 0 && lanes != 0) atomicAdd(static_cast<u32*>(a.out_at), u32(__popc(lanes)));
}
