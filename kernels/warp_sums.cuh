// Reduces up to sixteen values over a warp together, in half as many shuffles as one by one would take.
#pragma once
#include "common.cuh"

constexpr u32 PLACES = 16; // values per lane at most

// Transposing reduction: lane l gets the warp's sum of values[l / 2]. Each step halves the number of values per lane.
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

// The same for the values f(0) to f(COUNT - 1).
template <u32 COUNT, class F> DEVICE float sums_of_warp(const F& f) {
    static_assert(COUNT <= PLACES, "at most PLACES sums");
    float values[PLACES];
#pragma unroll
    for (u32 p = 0; p < PLACES; ++p) values[p] = p < COUNT ? f(p) : 0.0f;
    return share_out_sums<PLACES / 2>(values);
}
