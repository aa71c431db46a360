// The operands of a linear layer, and what rides on it. src/ops/linear.rs
#pragma once
#include "common.cuh"

enum LinearOperand : u32 { X, WEIGHT, BIAS, RESIDUAL, SCALE, SHIFT, TABLE, COUNTER };

// x * scale + shift, for rows of one image.
struct Prologue {
    const float* scale; // of the image, or null
    Tensor shift;
    DEVICE Prologue(const Args& a, u32 row)
        : scale(a.has(SCALE) ? a.real(SCALE) + row / a.out.tokens() * a.shape[X].c : nullptr),
          shift(a.tensor(SHIFT)) {}
    DEVICE float operator()(u32 k, float x) const {
        if (scale) x *= scale[k];
        return shift ? x + shift[k] : x;
    }
};

// From a sum of products to the result: bias, function, residual, timestep table.
struct Epilogue {
    const Args& a;
    const float* table;  // the step's row, of image 0
    u32 per_image;       // from an image's row of the table to the next one's
    DEVICE explicit Epilogue(const Args& args) : a(args), table(nullptr), per_image(0) {
        if (a.has(TABLE)) {
            const Shape& t = a.shape[TABLE];
            table = a.real(TABLE) + a.index(COUNTER)[0] * t.c;
            per_image = t.n == 1 ? 0 : t.w * t.c;
        }
    }
    DEVICE float value(u32 row, u32 column, float sum) const {
        if (a.has(BIAS)) sum += a.tensor(BIAS)[column];
        sum = apply(a.constant[0], sum);
        // The residual may lie where the result goes: read it first.
        if (a.has(RESIDUAL)) sum += a.real(RESIDUAL)[row * a.out.c + column];
        if (table) {
            const float* ab = table + row / a.out.tokens() * per_image;
            sum = sum * (1.0f + ab[column]) + ab[a.out.c + column];
        }
        return sum;
    }
    DEVICE void store(u32 row, u32 column, float sum) const {
        if (row < a.out.rows() && column < a.out.c) a.store(row * a.out.c + column, value(row, column, sum));
    }
};
