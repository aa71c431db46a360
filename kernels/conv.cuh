// Convolutions as implicit GEMMs: which element of x and of the weight is element k of a GEMM row (im2col by index).
#pragma once
#include "chunk.cuh"

enum ConvOperand : u32 { X, WEIGHT, BIAS };

// K runs over the taps of the kernel, then over the channels, which are contiguous in x.

constexpr u32 OUTSIDE = ~0u; // the index of a tap outside the input

// Element k of an im2col row, gathered from x.
template <class W> DEVICE float patch_element(const Tensor& x, const W& patch, u32 k) {
    const u32 at = patch.at(k);
    return at == OUTSIDE ? 0.0f : x[at];
}

// Elements k to k + 7 of an im2col row, zeros from element `end` on.
template <class W> DEVICE void load_patch(float (&to)[CHUNK], const Tensor& x, const W& patch, u32 k, u32 end) {
    if (patch.c % CHUNK == 0) { // a chunk does not cross into the next tap
        const u32 at = k < end ? patch.at(k) : OUTSIDE;
        load_tensor(to, x, at, at == OUTSIDE ? 0 : CHUNK, true);
    } else {
        for (u32 j = 0; j < CHUNK; ++j) to[j] = k + j < end ? patch_element(x, patch, k + j) : 0.0f;
    }
}

// Adds the bias to a chunk of results, channels from o on of output pixel `row`, and stores it.
DEVICE void store_pixel(const Args& a, u32 row, u32 o, float (&v)[CHUNK]) {
    if (o >= a.out.c) return;
    if (a.has(BIAS)) {
        float bias[CHUNK];
        load_tensor(bias, a.tensor(BIAS), o, a.out.c - o, true);
        for (u32 i = 0; i < CHUNK; ++i) v[i] += bias[i];
    }
    store_result(a, row * a.out.c + o, a.out.c - o, v, a.out.c % CHUNK == 0);
}

// The im2col row of one output pixel: the input patch under the kernel. src/ops/conv2d.rs
struct Patch {
    u32 image, h, w, c, kw; // image: its first element
    u32 y, x;               // top left of the patch; negative coordinates wrap around
    DEVICE Patch(const Args& a, u32 row)
        : image(row / a.out.tokens() * a.shape[X].tokens() * a.shape[X].c), h(a.shape[X].h),
          w(a.shape[X].w), c(a.shape[X].c), kw(a.shape[WEIGHT].c),
          y(row / a.out.w % a.out.h * a.constant[0] - a.constant[1]), x(row % a.out.w * a.constant[0] - a.constant[1]) {}
    // Index in x of element k, or OUTSIDE.
    DEVICE u32 at(u32 k) const {
        const u32 pixel = k / c, py = y + pixel / kw, px = x + pixel % kw;
        return py < h && px < w ? image + (py * w + px) * c + k % c : OUTSIDE;
    }
};

// The filter of output channel o: a row of the weight [o, c, kh, kw] as the GEMM reads it.
struct Filter {
    Tensor weight;
    u32 c, pixels, first;
    DEVICE Filter(const Args& a, u32 o)
        : weight(a.tensor(WEIGHT)), c(a.shape[X].c), pixels(a.shape[WEIGHT].w * a.shape[WEIGHT].c),
          first(o * c * pixels) {}
    DEVICE float operator()(u32 k) const { return weight[first + k % c * pixels + k / c]; }
};

// Output pixels whose row and column leave the same remainders modulo the stride form a residue class. A transposed
// convolution is, for each class, an ordinary convolution with every stride-th row and column of the flipped kernel. One
// such class: src/ops/conv_transpose2d.rs
struct ResidueClass {
    u32 stride;
    u32 row, rows, column, columns; // first output row of the class, number of rows; the same for columns
    u32 ky, taps_y, kx, taps_x;     // first kernel row of the class, number of rows; the same for columns

    // The outputs whose (row + padding) modulo the stride is `remainder_y`, and whose (column + padding) is `remainder_x`.
    DEVICE ResidueClass(const Args& a, u32 remainder_y, u32 remainder_x) : stride(a.constant[0]) {
        const u32 padding = a.constant[1];
        ky = remainder_y;
        kx = remainder_x;
        taps_y = count(a.shape[WEIGHT].w, ky);
        taps_x = count(a.shape[WEIGHT].c, kx);
        row = (ky + padding * (stride - 1)) % stride; // (ky - padding) modulo stride, without going negative
        column = (kx + padding * (stride - 1)) % stride;
        rows = count(a.out.h, row);
        columns = count(a.out.w, column);
    }
    // Length of the sequence first, first + stride, first + 2 stride, ... below end.
    DEVICE u32 count(u32 end, u32 first) const { return end > first ? div_up(end - first, stride) : 0; }
    DEVICE u32 results(const Args& a) const { return a.out.n * rows * columns; }
    DEVICE u32 depth(const Args& a) const { return taps_y * taps_x * a.shape[X].c; }
    // Index among all output pixels of pixel i of this class.
    DEVICE u32 place(const Args& a, u32 i) const {
        const u32 y = row + i / columns % rows * stride, x = column + i % columns * stride;
        return (i / columns / rows * a.out.h + y) * a.out.w + x;
    }
};

// The im2col row of one output pixel of a transposed convolution: input pixels upwards and to the left of (y, x).
struct TransposedPatch {
    u32 image, h, w, c, taps_x, y, x;
    DEVICE TransposedPatch(const Args& a, const ResidueClass& cls, u32 place)
        : image(place / a.out.tokens() * a.shape[X].tokens() * a.shape[X].c), h(a.shape[X].h),
          w(a.shape[X].w), c(a.shape[X].c), taps_x(cls.taps_x),
          y((place / a.out.w % a.out.h + a.constant[1] - cls.ky) / cls.stride),
          x((place % a.out.w + a.constant[1] - cls.kx) / cls.stride) {}
    // Index in x of element k, or OUTSIDE.
    DEVICE u32 at(u32 k) const {
        const u32 pixel = k / c, py = y - pixel / taps_x, px = x - pixel % taps_x;
        return py < h && px < w ? image + (py * w + px) * c + k % c : OUTSIDE;
    }
};

// The filter of output channel o for one class: a row of the weight [c, o, kh, kw] as the GEMM reads it.
struct TransposedFilter {
    Tensor weight;
    u32 c, outputs, o, kh, kw, stride, ky, kx, taps_x;
    DEVICE TransposedFilter(const Args& a, const ResidueClass& cls, u32 channel)
        : weight(a.tensor(WEIGHT)), c(a.shape[X].c), outputs(a.out.c), o(channel), kh(a.shape[WEIGHT].w),
          kw(a.shape[WEIGHT].c), stride(cls.stride), ky(cls.ky), kx(cls.kx), taps_x(cls.taps_x) {}
    DEVICE float operator()(u32 k) const {
        const u32 pixel = k / c, row = ky + pixel / taps_x * stride, column = kx + pixel % taps_x * stride;
        return weight[((k % c * outputs + o) * kh + row) * kw + column];
    }
};
