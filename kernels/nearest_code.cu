// nearest_code: each pixel becomes the nearest entry of a codebook, the first if several are equally near
//
// x       [n, h, w, c] f32
// codes   [m, c] any type
// out     [n, h, w, c] f32 or bf16
//
// Launch     one warp per pixel, ROWS per block.
// Shared     none.
// Memory     reads the codebook once per pixel, from L1 and L2.
// Numerics   f32, each multiplication and addition rounded as in the definition (no FMA), so that ties are the same.
// Needs      nothing.
// Tunables   ROWS.
// Reference  src/ops/nearest_code.rs
#include "common.cuh"

constexpr u32 ROWS = 8;
constexpr u32 THREADS = 256;
static_assert(THREADS == 32 * ROWS, "one warp per pixel");

KERNEL(nearest_code) {
    const u32 row = blockIdx.x * ROWS + warp(), c = a.out.c;
    if (row >= a.out.rows()) return; // the whole warp, so no shuffle misses a lane
    const float* x = a.real(0) + row * c;
    const Tensor codes = a.tensor(1);

    float least = INFINITY;
    u32 nearest = 0;
    for (u32 code = lane(); code < a.shape[1].w; code += 32) {
        float distance = 0.0f;
        for (u32 i = 0; i < c; ++i) {
            const float d = codes[code * c + i] - x[i];
            distance = __fadd_rn(distance, __fmul_rn(d, d));
        }
        if (distance < least) least = distance, nearest = code;
    }
    for (u32 step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, least, step);
        const u32 code = __shfl_xor_sync(0xffffffffu, nearest, step);
        if (other < least || (other == least && code < nearest)) least = other, nearest = code;
    }
    for (u32 i = lane(); i < c; i += 32) a.store(row * c + i, codes[nearest * c + i]);
}
