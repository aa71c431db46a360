// denoise: a*x + b*eps + h*history + sigma*z, where a, b, h and sigma are the current step's row of the table `factors`
//
// x        [n, h, w, c] f32; may be out
// eps      [n, h, w, c] f32
// history  [n, h, w, c] f32, or absent
// noise    [steps n, h, w, c] f32, or [n, h, w, c] for this step alone, or absent
// factors  [1, 1, steps, 4] f32: a, b, h, sigma
// counter  [1, 1, 1, 1] u32
// out      [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads every operand once, writes x once.
// Counts     x once, eps once, history once, noise once, factors once, counter once, y once; 12 bytes a thread
// Numerics   f32, in the order of the op's definition.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/denoise.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(denoise) {
    const u32 i = this_element(), elements = a.out.elements();
    if (i >= elements) return;
    const u32 step = a.index(5)[0];
    const float* k = a.real(4) + 4 * step;
    float y = k[0] * a.real(0)[i] + k[1] * a.real(1)[i];
    if (a.has(2)) y += k[2] * a.real(2)[i];
    if (a.has(3)) y += k[3] * a.real(3)[(a.shape[3].n == a.out.n ? 0 : step * elements) + i];
    a.store(i, y);
}
