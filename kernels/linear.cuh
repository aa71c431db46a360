// The operands of a linear layer, and what rides on it. src/ops/linear.rs
#pragma once
#include "chunk.cuh"

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
    // The residual of a chunk of a row, which may lie where the result goes: it is read first. Memory takes long to answer,
    // so that whoever has several chunks reads the next one's before it stores one.
    DEVICE void load_residual(u32 row, u32 column, float (&to)[CHUNK]) const {
        if (!a.has(RESIDUAL) || row >= a.out.rows() || column >= a.out.c) return;
        load_reals(to, a.real(RESIDUAL) + row * a.out.c + column, a.out.c - column, a.out.c % CHUNK == 0);
    }
    // The same as above for a chunk of a row.
    DEVICE void store(u32 row, u32 column, float (&v)[CHUNK]) const {
        float residual[CHUNK];
        load_residual(row, column, residual);
        store(row, column, v, residual);
    }
    DEVICE void store(u32 row, u32 column, float (&v)[CHUNK], const float (&residual)[CHUNK]) const {
        if (row >= a.out.rows() || column >= a.out.c) return;
        const u32 c = a.out.c, count = c - column, at = row * c + column;
        const bool aligned = c % CHUNK == 0;
        float ride[CHUNK];
        if (a.has(BIAS)) {
            load_tensor(ride, a.tensor(BIAS), column, count, true);
            for (u32 i = 0; i < CHUNK; ++i) v[i] += ride[i];
        }
        apply_to(v, a.constant[0]);
        if (a.has(RESIDUAL)) {
            for (u32 i = 0; i < CHUNK; ++i) v[i] += residual[i];
        }
        if (table) {
            const float* ab = table + row / a.out.tokens() * per_image + column;
            float shift[CHUNK];
            load_reals(ride, ab, count, aligned);
            load_reals(shift, ab + c, count, aligned);
            for (u32 i = 0; i < CHUNK; ++i) v[i] = v[i] * (1.0f + ride[i]) + shift[i];
        }
        store_result(a, at, count, v, aligned);
    }
};
