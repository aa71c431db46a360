// A 3 x 3 depthwise convolution on a tile of pixels in registers, shared by depthwise_norm and depthwise_residual.
#pragma once
#include "float4.cuh"

constexpr u32 KSIZE = 3;
constexpr u32 INPUT_SIDE = TILE + KSIZE - 1; // side of the input tile, with its halo

// Four channels of a square tile of pixels, in registers.
struct Tile {
    Float4 at[TILE][TILE];
};

// The convolution's results for a tile, channels `channel` to `channel` + 3. load(i, j) returns these channels of the pixel
// i - 1 rows below and j - 1 columns to the right of the tile's first; each input pixel is loaded once and used for all
// results it contributes to. load must not branch, or the loads would be serialised.
template <class Load> DEVICE Tile convolve(const Tensor& weight, const Tensor& bias, u32 channel, const Load& load) {
    constexpr u32 TAPS = KSIZE * KSIZE;
    Float4 weights[TAPS]; // as in the weight: [4 channels][TAPS]
    Float4 initial;
    if (weight.kind == BF16 && bias.kind == BF16) { // the usual case; the bias load does not wait for the weights
        load_float4s<BF16>(weights, weight.at, channel * TAPS);
        initial = load_float4<BF16>(bias.at, channel);
    } else {
        load_float4s(weights, weight, channel * TAPS);
        initial = load_float4(bias, channel);
    }

    Tile sums;
#pragma unroll
    for (u32 p = 0; p < TILE * TILE; ++p) sums.at[p / TILE][p % TILE] = initial;

#pragma unroll
    for (u32 i = 0; i < INPUT_SIDE; ++i) {
#pragma unroll
        for (u32 j = 0; j < INPUT_SIDE; ++j) {
            const Float4 x = load(i, j);
#pragma unroll
            for (u32 tap = 0; tap < TAPS; ++tap) {
                const u32 row = i - tap / KSIZE, col = j - tap % KSIZE; // negative values wrap around and fail the test
                if (row < TILE && col < TILE) {
#pragma unroll
                    for (u32 k = 0; k < VEC; ++k) {
                        const u32 at = k * TAPS + tap;
                        sums.at[row][col][k] += x[k] * weights[at / VEC][at % VEC];
                    }
                }
            }
        }
    }
    return sums;
}
