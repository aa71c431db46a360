// denoise: a sampler step with guidance: e = e_c - (e_c - e_u)(1 - g); x = c0 (x - c1 e) + sigma z
//
// x             [n, h, w, c] f32; may be out
// eps           [n, h, w, c] f32; with guidance [2n, h, w, c], conditional images first
// noise         [steps n, h, w, c] f32, or [n, h, w, c] for this step alone
// coefficients  [1, 1, steps, 4] f32: c0, c1, sigma, g
// counter       [1, 1, 1, 1] u32
// out           [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads every operand once, writes x once.
// Counts     x once, eps once, noise once, coefficients once, counter once, y once; 12 bytes a thread
// Numerics   f32, in the order of the op's definition.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/denoise.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(denoise) {
    const u32 i = this_element(), elements = a.out.elements();
    if (i >= elements) return;
    const u32 step = a.index(4)[0];
    const float* k = a.real(3) + 4 * step;
    float e = a.real(1)[i];
    if (a.constant[0]) e -= (e - a.real(1)[i + elements]) * (1.0f - k[3]);
    const u32 first = a.shape[2].n == a.out.n ? 0 : step * elements;
    a.store(i, k[0] * (a.real(0)[i] - k[1] * e) + k[2] * a.real(2)[first + i]);
}
