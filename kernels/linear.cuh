// Operands, fused prologue and fused epilogue of a linear layer. src/ops/linear.rs
#pragma once
#include "chunk.cuh"

enum LinearOperand : u32 { X, WEIGHT, BIAS, RESIDUAL, SCALE, SHIFT, TABLE, COUNTER };

// The fused prologue, x * scale + shift, for rows of one image.
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

// The fused epilogue, from accumulator to result: bias, activation function, residual, timestep modulation. WHOLE: the
// number of channels is a multiple of CHUNK.
template <bool WHOLE> struct Epilogue {
    const Args& a;
    const float* table;  // the current step's row for image 0
    u32 per_image;       // stride between images' rows; 0 if all images share one
    DEVICE explicit Epilogue(const Args& args) : a(args), table(nullptr), per_image(0) {
        if (a.has(TABLE)) {
            const Shape& t = a.shape[TABLE];
            table = a.real(TABLE) + a.index(COUNTER)[0] * t.c;
            per_image = t.n == 1 ? 0 : t.w * t.c;
        }
    }
    DEVICE bool inside(u32 row, u32 column) const { return row < a.out.rows() && column < a.out.c; }
    DEVICE u32 count(u32 column) const { return WHOLE ? CHUNK : a.out.c - column; }
    DEVICE bool aligned() const { return WHOLE || a.out.c % CHUNK == 0; }

    DEVICE float value(u32 row, u32 column, float sum) const {
        if (a.has(BIAS)) sum += a.tensor(BIAS)[column];
        sum = apply(a.constant[0], sum);
        // The residual may share its memory with the result, so it is read before the store.
        if (a.has(RESIDUAL)) sum += a.real(RESIDUAL)[row * a.out.c + column];
        if (table) {
            const float* ab = table + row / a.out.tokens() * per_image;
            sum = sum * (1.0f + ab[column]) + ab[a.out.c + column];
        }
        return sum;
    }
    DEVICE void store(u32 row, u32 column, float sum) const {
        if (inside(row, column)) a.store(row * a.out.c + column, value(row, column, sum));
    }

    // The same for a chunk of a row, split into steps so that a caller with several rows can load the bias once and
    // prefetch the residuals of the next chunks before it stores the results of this one.
    DEVICE void load_bias(u32 column, float (&to)[CHUNK]) const {
        if (a.has(BIAS) && column < a.out.c) load_tensor(to, a.tensor(BIAS), column, count(column), true);
    }
    DEVICE void load_residual(u32 row, u32 column, float (&to)[CHUNK]) const {
        if (a.has(RESIDUAL) && inside(row, column)) load_reals(to, a.real(RESIDUAL) + row * a.out.c + column, count(column), aligned());
    }
    DEVICE void store(u32 row, u32 column, float (&v)[CHUNK], const float (&bias)[CHUNK], const float (&residual)[CHUNK]) const {
        if (!inside(row, column)) return;
        const u32 c = a.out.c;
        if (a.has(BIAS)) {
            for (u32 i = 0; i < CHUNK; ++i) v[i] += bias[i];
        }
        apply_to(v, a.constant[0]);
        if (a.has(RESIDUAL)) {
            for (u32 i = 0; i < CHUNK; ++i) v[i] += residual[i];
        }
        if (table) {
            const float* ab = table + row / a.out.tokens() * per_image + column;
            float scale[CHUNK], shift[CHUNK];
            load_reals(scale, ab, count(column), aligned());
            load_reals(shift, ab + c, count(column), aligned());
            for (u32 i = 0; i < CHUNK; ++i) v[i] = v[i] * (1.0f + scale[i]) + shift[i];
        }
        store_result(a, row * c + column, count(column), v, aligned());
    }
    DEVICE void store(u32 row, u32 column, float (&v)[CHUNK]) const {
        float bias[CHUNK], residual[CHUNK];
        load_bias(column, bias);
        load_residual(row, column, residual);
        store(row, column, v, bias, residual);
    }
};
