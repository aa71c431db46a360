// guide: cond + (cond - uncond) (g - 1), classifier-free guidance
//
// eps       [2n, h, w, c] f32, conditional images first
// guidance  [1, 1, steps, 3] f32: g, and two numbers unused here
// counter   [1, 1, 1, 1] u32
// out       [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads every operand once, writes out once.
// Counts     eps once, guidance once, counter once, y once; 8 bytes a thread
// Numerics   f32, in the order of the op's definition.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/guide.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(guide) {
    const u32 i = this_element(), elements = a.out.elements();
    if (i >= elements) return;
    const float e = a.real(0)[i], u = a.real(0)[elements + i];
    a.store(i, e + (e - u) * (a.real(1)[3 * a.index(2)[0]] - 1.0f));
}
