// Operands of a feed-forward block and its leading layer norm. src/ops/feed_forward.rs
#pragma once
#include "common.cuh"

enum FeedForwardOperand : u32 { X, GAMMAS, W0, B0, W2, B2 };

// LN(x) (1 + g3) + g4 of one row, computed together by PARTS neighbouring threads.
template <u32 LANES> struct Norm {
    const float* x;
    float mean, scale, shift;
    DEVICE Norm(const Args& a, u32 row, u32 lane_of_row) : x(a.real(X) + row * a.out.c) {
        const u32 c = a.out.c;
        float sum = 0.0f, squares = 0.0f;
        for (u32 k = lane_of_row; k < c; k += LANES) sum += x[k];
        mean = sum_of_lanes(sum) / float(c);
        for (u32 k = lane_of_row; k < c; k += LANES) squares += (x[k] - mean) * (x[k] - mean);
        const float rstd = 1.0f / sqrtf(sum_of_lanes(squares) / float(c) + a.number(0));
        scale = rstd * (1.0f + a.tensor(GAMMAS)[3]);
        shift = a.tensor(GAMMAS)[4];
    }
    DEVICE float operator()(float v) const { return (v - mean) * scale + shift; }

  private:
    DEVICE static float sum_of_lanes(float v) {
        for (u32 step = LANES / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
        return v;
    }
};
