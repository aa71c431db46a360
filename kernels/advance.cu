// advance: counter += 1
//
// counter [1, 1, 1, 1] u32; may be out
// out     [1, 1, 1, 1] u32
//
// Launch     one thread.
// Shared     none.
// Memory     4 bytes.
// Numerics   u32, wraps around.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/advance.rs
#include "common.cuh"

constexpr u32 THREADS = 32;

KERNEL(advance) {
    if (threadIdx.x == 0) static_cast<u32*>(a.out_at)[0] = a.index(0)[0] + 1;
}
