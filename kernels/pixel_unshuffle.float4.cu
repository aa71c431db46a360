// pixel_unshuffle: patches of 2 x 2 pixels; channels are multiples of four
//
// Operands as in pixel_unshuffle.cu.
//
// Launch     one thread per four channels of a patch, which are four float4 of out.
// Shared     none.
// Memory     reads x once and writes out once, 64 bytes per thread each (32 for bf16): 64 KiB in flight on an SM with 2048
//            threads, where the bandwidth times latency of an H100 is 20 KiB.
// Counts     x once, y once; 32 bytes a thread
// Numerics   exact: values are copied.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/pixel_unshuffle.rs
#include "float4.cuh"

constexpr u32 THREADS = 256;
constexpr u32 ELEMENTS = 4096;
static_assert(ELEMENTS == THREADS * VEC * VEC, "four float4 per thread");

// Loads four channels of a patch's four pixels; `right` and `down` are the offsets to the neighbouring pixels.
template <u32 KIND> DEVICE void load_patch(Float4 (&to)[VEC], const void* x, u32 i, u32 right, u32 down) {
#pragma unroll
    for (u32 p = 0; p < VEC; ++p) to[p] = load_float4<KIND>(x, i + p / 2 * down + p % 2 * right);
}

KERNEL(pixel_unshuffle_float4) {
    const u32 i = this_element() * VEC * VEC;
    if (i >= a.out.elements()) return;
    const Shape& x = a.shape[0];
    const u32 pixel = i / a.out.c, row = pixel / a.out.w % a.out.h * 2, col = pixel % a.out.w * 2;
    const u32 first = ((pixel / a.out.tokens() * x.h + row) * x.w + col) * x.c + i % a.out.c / VEC;
    Float4 patch[VEC];
    if (a.kind[0] == BF16) {
        load_patch<BF16>(patch, a.operand_at[0], first, x.c, x.w * x.c);
    } else {
        load_patch<F32>(patch, a.operand_at[0], first, x.c, x.w * x.c);
    }
#pragma unroll
    for (u32 k = 0; k < VEC; ++k) store_float4(a, i + k * VEC, {patch[0][k], patch[1][k], patch[2][k], patch[3][k]});
}
