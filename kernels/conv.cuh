// Convolutions as implicit GEMMs: which element of x and of the weight is element k of a GEMM row (im2col by index).
#pragma once
#include "chunk.cuh"

enum ConvOperand : u32 { X, WEIGHT, BIAS };

// K runs over the taps of the kernel, then over the channels, which are contiguous in x.

constexpr u32 PADDING = ~0u; // the index of a tap outside the input

// Element k of an im2col row, gathered from x.
template <class W> DEVICE float term(const Tensor& x, const W& window, u32 k) {
    const u32 at = window.at(k);
    return at == PADDING ? 0.0f : x[at];
}

// Elements k to k + 7 of an im2col row, zeros from element `end` on.
template <class W> DEVICE void load_terms(float (&to)[CHUNK], const Tensor& x, const W& window, u32 k, u32 end) {
    if (window.c % CHUNK == 0) { // a chunk does not cross into the next tap
        const u32 at = k < end ? window.at(k) : PADDING;
        load_tensor(to, x, at, at == PADDING ? 0 : CHUNK, true);
    } else {
        for (u32 j = 0; j < CHUNK; ++j) to[j] = k + j < end ? term(x, window, k + j) : 0.0f;
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
struct Window {
    u32 image, h, w, c, kw; // image: its first element
    u32 y, x;               // top left of the patch; negative coordinates wrap around
    DEVICE Window(const Args& a, u32 row)
        : image(row / a.out.tokens() * a.shape[X].tokens() * a.shape[X].c), h(a.shape[X].h),
          w(a.shape[X].w), c(a.shape[X].c), kw(a.shape[WEIGHT].c),
          y(row / a.out.w % a.out.h * a.constant[0] - a.constant[1]), x(row % a.out.w * a.constant[0] - a.constant[1]) {}
    // Index in x of element k, or PADDING.
    DEVICE u32 at(u32 k) const {
        const u32 pixel = k / c, py = y + pixel / kw, px = x + pixel % kw;
        return py < h && px < w ? image + (py * w + px) * c + k % c : PADDING;
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
struct Class {
    u32 stride;
    u32 row, rows, column, columns; // first output row of the class, number of rows; the same for columns
    u32 ky, heights, kx, widths;    // first kernel row of the class, number of rows; the same for columns

    // The class of outputs whose row plus padding is `remainder_y` modulo the stride, and likewise for columns.
    DEVICE Class(const Args& a, u32 remainder_y, u32 remainder_x) : stride(a.constant[0]) {
        const u32 padding = a.constant[1];
        ky = remainder_y;
        kx = remainder_x;
        heights = count(a.shape[WEIGHT].w, ky);
        widths = count(a.shape[WEIGHT].c, kx);
        row = (ky + padding * (stride - 1)) % stride; // (ky - padding) modulo stride, without going negative
        column = (kx + padding * (stride - 1)) % stride;
        rows = count(a.out.h, row);
        columns = count(a.out.w, column);
    }
    // Length of the sequence first, first + stride, first + 2 stride, ... below end.
    DEVICE u32 count(u32 end, u32 first) const { return end > first ? div_up(end - first, stride) : 0; }
    DEVICE u32 results(const Args& a) const { return a.out.n * rows * columns; }
    DEVICE u32 terms(const Args& a) const { return heights * widths * a.shape[X].c; }
    // Index among all output pixels of pixel i of this class.
    DEVICE u32 place(const Args& a, u32 i) const {
        const u32 y = row + i / columns % rows * stride, x = column + i % columns * stride;
        return (i / columns / rows * a.out.h + y) * a.out.w + x;
    }
};

// The im2col row of one output pixel of a transposed convolution: input pixels upwards and to the left of (y, x).
struct Backward {
    u32 image, h, w, c, widths, y, x;
    DEVICE Backward(const Args& a, const Class& set, u32 place)
        : image(place / a.out.tokens() * a.shape[X].tokens() * a.shape[X].c), h(a.shape[X].h),
          w(a.shape[X].w), c(a.shape[X].c), widths(set.widths),
          y((place / a.out.w % a.out.h + a.constant[1] - set.ky) / set.stride),
          x((place % a.out.w + a.constant[1] - set.kx) / set.stride) {}
    // Index in x of element k, or PADDING.
    DEVICE u32 at(u32 k) const {
        const u32 pixel = k / c, py = y - pixel / widths, px = x - pixel % widths;
        return py < h && px < w ? image + (py * w + px) * c + k % c : PADDING;
    }
};

// The filter of output channel o for one class: a row of the weight [c, o, kh, kw] as the GEMM reads it.
struct BackwardFilter {
    Tensor weight;
    u32 c, outputs, o, kh, kw, stride, ky, kx, widths;
    DEVICE BackwardFilter(const Args& a, const Class& set, u32 channel)
        : weight(a.tensor(WEIGHT)), c(a.shape[X].c), outputs(a.out.c), o(channel), kh(a.shape[WEIGHT].w),
          kw(a.shape[WEIGHT].c), stride(set.stride), ky(set.ky), kx(set.kx), widths(set.widths) {}
    DEVICE float operator()(u32 k) const {
        const u32 pixel = k / c, row = ky + pixel / widths * stride, column = kx + pixel % widths * stride;
        return weight[((k % c * outputs + o) * kh + row) * kw + column];
    }
};
