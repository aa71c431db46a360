// Convolutions as products: where the terms of a sum lie in the picture and in the weight.
#pragma once
#include "chunk.cuh"

enum ConvOperand : u32 { X, WEIGHT, BIAS };

// The terms of a window run over its pixels, then over the channels, which are contiguous in x.

constexpr u32 PADDING = ~0u; // where no pixel is

// Term k of a window on x.
template <class W> DEVICE float term(const Tensor& x, const W& window, u32 k) {
    const u32 at = window.at(k);
    return at == PADDING ? 0.0f : x[at];
}

// Terms from k on, zeros from term `end` on.
template <class W> DEVICE void load_terms(float (&to)[CHUNK], const Tensor& x, const W& window, u32 k, u32 end) {
    if (window.c % CHUNK == 0) { // they are of one pixel
        const u32 at = k < end ? window.at(k) : PADDING;
        load_tensor(to, x, at, at == PADDING ? 0 : CHUNK, true);
    } else {
        for (u32 j = 0; j < CHUNK; ++j) to[j] = k + j < end ? term(x, window, k + j) : 0.0f;
    }
}

// A chunk of the result's pixel `row`, from channel o on: bias, then its place.
DEVICE void store_pixel(const Args& a, u32 row, u32 o, float (&v)[CHUNK]) {
    if (o >= a.out.c) return;
    if (a.has(BIAS)) {
        float bias[CHUNK];
        load_tensor(bias, a.tensor(BIAS), o, a.out.c - o, true);
        for (u32 i = 0; i < CHUNK; ++i) v[i] += bias[i];
    }
    store_result(a, row * a.out.c + o, a.out.c - o, v, a.out.c % CHUNK == 0);
}

// One result pixel of a convolution. src/ops/conv2d.rs
struct Window {
    u32 image, h, w, c, kw; // first element of the image
    u32 y, x;               // where the window begins: it may lie outside and wrap round
    DEVICE Window(const Args& a, u32 row)
        : image(row / a.out.tokens() * a.shape[X].tokens() * a.shape[X].c), h(a.shape[X].h),
          w(a.shape[X].w), c(a.shape[X].c), kw(a.shape[WEIGHT].c),
          y(row / a.out.w % a.out.h * a.constant[0] - a.constant[1]), x(row % a.out.w * a.constant[0] - a.constant[1]) {}
    // The element of x that is term k.
    DEVICE u32 at(u32 k) const {
        const u32 pixel = k / c, py = y + pixel / kw, px = x + pixel % kw;
        return py < h && px < w ? image + (py * w + px) * c + k % c : PADDING;
    }
};

// Output channel o of a convolution's weight [o, c, kh, kw].
struct Filter {
    Tensor weight;
    u32 c, pixels, first;
    DEVICE Filter(const Args& a, u32 o)
        : weight(a.tensor(WEIGHT)), c(a.shape[X].c), pixels(a.shape[WEIGHT].w * a.shape[WEIGHT].c),
          first(o * c * pixels) {}
    DEVICE float operator()(u32 k) const { return weight[first + k % c * pixels + k / c]; }
};

// A transposed convolution is, for the results whose row is the same modulo the stride, and the column
// too, a convolution with every stride-th row and column of the window, turned round. One such set:
// src/ops/conv_transpose2d.rs
struct Class {
    u32 stride;
    u32 row, rows, column, columns; // first row of the results, how many; first column, how many
    u32 ky, heights, kx, widths;    // first row of the window, how many; first column, how many

    // The results whose row plus padding leaves `remainder_y` modulo the stride, and columns likewise.
    DEVICE Class(const Args& a, u32 remainder_y, u32 remainder_x) : stride(a.constant[0]) {
        const u32 padding = a.constant[1];
        ky = remainder_y;
        kx = remainder_x;
        heights = count(a.shape[WEIGHT].w, ky);
        widths = count(a.shape[WEIGHT].c, kx);
        row = (ky + padding * (stride - 1)) % stride; // ky - padding, not below 0
        column = (kx + padding * (stride - 1)) % stride;
        rows = count(a.out.h, row);
        columns = count(a.out.w, column);
    }
    // How many of first, first + stride, first + 2 stride, ... lie below end.
    DEVICE u32 count(u32 end, u32 first) const { return end > first ? div_up(end - first, stride) : 0; }
    DEVICE u32 results(const Args& a) const { return a.out.n * rows * columns; }
    DEVICE u32 terms(const Args& a) const { return heights * widths * a.shape[X].c; }
    // Row of the whole result, seen as a matrix, that is result i of this class.
    DEVICE u32 place(const Args& a, u32 i) const {
        const u32 y = row + i / columns % rows * stride, x = column + i % columns * stride;
        return (i / columns / rows * a.out.h + y) * a.out.w + x;
    }
};

// One result pixel of a transposed convolution: input pixels up and left of (y, x), term by term.
struct Backward {
    u32 image, h, w, c, widths, y, x;
    DEVICE Backward(const Args& a, const Class& set, u32 place)
        : image(place / a.out.tokens() * a.shape[X].tokens() * a.shape[X].c), h(a.shape[X].h),
          w(a.shape[X].w), c(a.shape[X].c), widths(set.widths),
          y((place / a.out.w % a.out.h + a.constant[1] - set.ky) / set.stride),
          x((place % a.out.w + a.constant[1] - set.kx) / set.stride) {}
    // The element of x that is term k.
    DEVICE u32 at(u32 k) const {
        const u32 pixel = k / c, py = y - pixel / widths, px = x - pixel % widths;
        return py < h && px < w ? image + (py * w + px) * c + k % c : PADDING;
    }
};

// Output channel o of a transposed convolution's weight [c, o, kh, kw], for one class.
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
