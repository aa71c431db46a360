// Reduces up to sixteen values over a warp together, in half as many shuffles as one by one would take.
#pragma once
#include "common.cuh"

constexpr u32 WARP_SUMS = 16; // values per lane at most

// Transposing reduction: lane l gets the warp's sum of values[l / 2]. Each step halves the number of values per lane.
template <u32 HALF> DEVICE float transpose_sums(float (&values)[WARP_SUMS]) {
    const bool upper = lane() & (2 * HALF);
#pragma unroll
    for (u32 i = 0; i < HALF; ++i) {
        const float first = values[i], second = values[i + HALF];
        values[i] = (upper ? second : first) + __shfl_xor_sync(0xffffffffu, upper ? first : second, 2 * HALF);
    }
    if constexpr (HALF > 1) return transpose_sums<HALF / 2>(values);
    return values[0] + __shfl_xor_sync(0xffffffffu, values[0], 1);
}

// The same for the values f(0) to f(COUNT - 1).
template <u32 COUNT, class F> DEVICE float warp_sums(const F& f) {
    static_assert(COUNT <= WARP_SUMS, "at most PLACES sums");
    float values[WARP_SUMS];
#pragma unroll
    for (u32 p = 0; p < WARP_SUMS; ++p) values[p] = p < COUNT ? f(p) : 0.0f;
    return transpose_sums<WARP_SUMS / 2>(values);
}
