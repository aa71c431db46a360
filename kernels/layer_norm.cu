// layer_norm: y = (x - mean) / sqrt(var + eps) over the channels, then an affine map
//
// x        [n, h, w, c] f32; may be out
// weight   [c] any type; or gammas [6]; or absent
// bias     [c] any type, or absent
// out      [n, h, w, c] f32 or bf16
//
// Launch     one warp per row, ROWS per block.
// Shared     none.
// Memory     reads x three times, writes y once. A row is at most a few KiB, so the second and
//            third reads hit L1.
// Numerics   accumulates in f32; the variance takes a second pass, since the mean may be far larger than the deviation.
// Needs      nothing.
// Tunables   ROWS.
// Reference  src/ops/layer_norm.rs
#include "common.cuh"

constexpr u32 ROWS = 8;
constexpr u32 THREADS = 256;
static_assert(THREADS == 32 * ROWS, "one warp per row");

KERNEL(layer_norm) {
    enum { NONE, CHANNELS, GAMMAS }; // ops::Affine
    const u32 row = blockIdx.x * ROWS + warp(), c = a.out.c;
    if (row >= a.out.rows()) return; // the whole warp, so no shuffle misses a lane
    const float* x = a.real(0) + row * c;

    float sum = 0.0f;
    for (u32 i = lane(); i < c; i += 32) sum += x[i];
    const float mean = warp_sum(sum) / float(c);
    float squares = 0.0f;
    for (u32 i = lane(); i < c; i += 32) squares += (x[i] - mean) * (x[i] - mean);
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / float(c) + a.number(0));

    const Tensor first = a.tensor(1), bias = a.tensor(2);
    const float scale = a.constant[1] == GAMMAS ? 1.0f + first[0] : 1.0f;
    const float shift = a.constant[1] == GAMMAS ? first[1] : 0.0f;
    for (u32 i = lane(); i < c; i += 32) {
        const float v = (x[i] - mean) * rstd;
        a.store(row * c + i, a.constant[1] == CHANNELS ? v * first[i] + bias[i] : v * scale + shift);
    }
}
