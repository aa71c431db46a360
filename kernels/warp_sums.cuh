// Sums over a warp of up to sixteen values at once, in half the steps that one after the other takes.
#pragma once
#include "common.cuh"

constexpr u32 PLACES = 16; // for sums, half as many as lanes

// Lane l gets the sum of values[l / 2]. Each step halves what a lane has.
template <u32 HALF> DEVICE float share_out_sums(float (&values)[PLACES]) {
    const bool upper = lane() & (2 * HALF);
#pragma unroll
    for (u32 i = 0; i < HALF; ++i) {
        const float first = values[i], second = values[i + HALF];
        values[i] = (upper ? second : first) + __shfl_xor_sync(0xffffffffu, upper ? first : second, 2 * HALF);
    }
    if constexpr (HALF > 1) return share_out_sums<HALF / 2>(values);
    return values[0] + __shfl_xor_sync(0xffffffffu, values[0], 1);
}

// The same of f(0) to f(COUNT - 1).
template <u32 COUNT, class F> DEVICE float sums_of_warp(const F& f) {
    static_assert(COUNT <= PLACES, "sums have places");
    float values[PLACES];
#pragma unroll
    for (u32 p = 0; p < PLACES; ++p) values[p] = p < COUNT ? f(p) : 0.0f;
    return share_out_sums<PLACES / 2>(values);
}
