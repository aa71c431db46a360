// layer_norm: rows stay in registers; c is a multiple of four, at most 2048
//
// Operands as in layer_norm.cu.
//
// Launch     one warp per row, ROWS per block.
// Shared     none.
// Memory     reads x once, issuing the loads of a whole row together, and writes y once. About seven instructions per value;
//            an SM of an H100 can issue 53 in the time that its share of memory bandwidth takes for 6 bytes. Four blocks of
//            four rows per SM have 20 KiB in flight for 320 channels and 128 KiB for 2048; bandwidth times a latency of
//            800 ns is 20 KiB, of which reads are two thirds. Vectors of four rather than chunks of eight: 320 channels
//            fill 80 of 96 slots instead of 40 of 64, and neighbouring lanes read neighbouring bytes.
// Counts     x once, weight once, bias once, y once; row a warp
// Numerics   accumulates in f32; the variance takes a second pass, since the mean may be far larger than the deviation.
// Needs      nothing.
// Tunables   ROWS.
// Reference  src/ops/layer_norm.rs
#include "float4.cuh"

constexpr u32 ROWS = 4;
constexpr u32 THREADS = 128;
static_assert(THREADS == 32 * ROWS, "one warp per row");

// Normalises a row of at most VECS vectors per lane.
template <u32 VECS> DEVICE void norm(const Args& a, u32 row) {
    enum { NONE, CHANNELS, GAMMAS }; // ops::Affine
    const u32 c = a.out.c, begin = row * c;
    const auto channel = [](u32 q) { return (32 * q + lane()) * VEC; };

    Float4 x[VECS];
    float sum = 0.0f;
    // Without a branch, all loads are issued together.
#pragma unroll
    for (u32 q = 0; q < VECS; ++q) x[q] = load_float4(a.real(0), begin + min_of(channel(q), c - VEC));
#pragma unroll
    for (u32 q = 0; q < VECS; ++q) sum += channel(q) < c ? x[q].sum() : 0.0f;
    const float mean = warp_sum(sum) / float(c);
    float squares = 0.0f;
#pragma unroll
    for (u32 q = 0; q < VECS; ++q) {
        for (u32 i = 0; i < VEC; ++i) squares += channel(q) < c ? (x[q][i] - mean) * (x[q][i] - mean) : 0.0f;
    }
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / float(c) + a.number(0));

    const Tensor first = a.tensor(1), bias = a.tensor(2);
    const float scale = a.constant[1] == GAMMAS ? 1.0f + first[0] : 1.0f;
    const float shift = a.constant[1] == GAMMAS ? first[1] : 0.0f;
#pragma unroll
    for (u32 q = 0; q < VECS; ++q) {
        if (channel(q) >= c) return;
        for (u32 i = 0; i < VEC; ++i) x[q][i] = (x[q][i] - mean) * rstd * scale + shift;
        if (a.constant[1] == CHANNELS) {
            const Float4 by = load_float4(first, channel(q)), plus = load_float4(bias, channel(q));
            for (u32 i = 0; i < VEC; ++i) x[q][i] = x[q][i] * by[i] + plus[i];
        }
        store_float4(a, begin + channel(q), x[q]);
    }
}

KERNEL(layer_norm_registers, 4) {
    const u32 row = blockIdx.x * ROWS + warp();
    if (row >= a.out.rows()) return; // the whole warp, so no shuffle misses a lane
    switch (div_up(a.out.c, 32 * VEC)) {
    case 1: return norm<1>(a, row);
    case 2: return norm<2>(a, row);
    case 3: return norm<3>(a, row);
    case 4:
    case 5: return norm<5>(a, row);
    case 6:
    case 7:
    case 8:
    case 9:
    case 10: return norm<10>(a, row);
    default: return norm<16>(a, row);
    }
}
