// to_rgb8: y = round(255 clamp(x, 0, 1)) as bytes, cropped
//
// x       [n, h, w, 3] f32
// out     [n, height, width, 1] u32: red in the lowest byte, green, blue, 255
//
// Launch     one thread per pixel of out.
// Shared     none.
// Memory     reads x once, writes y once.
// Counts     x once, y once; 12 bytes a thread
// Numerics   rounds ties to even; NaN becomes 0, because fmaxf(NaN, 0) is 0.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/to_rgb8.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(to_rgb8) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 col = i % a.out.w, row = i / a.out.w % a.out.h, image = i / a.out.w / a.out.h;
    const float* x = a.real(0) + ((image * a.shape[0].h + row) * a.shape[0].w + col) * 3;
    u32 pixel = 255u << 24;
    for (u32 ch = 0; ch < 3; ++ch) pixel |= u32(rintf(fminf(fmaxf(x[ch], 0.0f), 1.0f) * 255.0f)) << (8 * ch);
    static_cast<u32*>(a.out_at)[i] = pixel;
}
