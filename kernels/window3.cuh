// A depthwise convolution by a window of 3 x 3: what depthwise_norm and depthwise_residual share.
#pragma once
#include "quad.cuh"

constexpr u32 WINDOW = 3;
constexpr u32 INPUTS = TILE + WINDOW - 1; // pixels that a side of a tile depends on

// Four channels of a tile of pixels, in registers.
struct Tile {
    Quad at[TILE][TILE];
};

// The sums of a tile for channels `channel` to `channel` + 3. load(i, j) gives these of the pixel that lies i - 1 rows
// below and j - 1 columns right of the tile's first; each is asked for once, for all the results that it is a part of. It
// must not branch: then loads wait for each other.
template <class Load> DEVICE Tile convolve(const Tensor& weight, const Tensor& bias, u32 channel, const Load& load) {
    constexpr u32 TAPS = WINDOW * WINDOW;
    Quad factors[TAPS]; // [QUAD][TAPS] in the weight, one after the other
    Quad begin;
    if (weight.kind == BF16 && bias.kind == BF16) { // as a rule; the bias does not wait for the weight
        load_quads<BF16>(factors, weight.at, channel * TAPS);
        begin = load_quad<BF16>(bias.at, channel);
    } else {
        load_quads(factors, weight, channel * TAPS);
        begin = load_quad(bias, channel);
    }

    Tile sums;
#pragma unroll
    for (u32 p = 0; p < TILE * TILE; ++p) sums.at[p / TILE][p % TILE] = begin;

#pragma unroll
    for (u32 i = 0; i < INPUTS; ++i) {
#pragma unroll
        for (u32 j = 0; j < INPUTS; ++j) {
            const Quad x = load(i, j);
#pragma unroll
            for (u32 tap = 0; tap < TAPS; ++tap) {
                const u32 row = i - tap / WINDOW, col = j - tap % WINDOW; // below 0, they wrap round
                if (row < TILE && col < TILE) {
#pragma unroll
                    for (u32 k = 0; k < QUAD; ++k) {
                        const u32 at = k * TAPS + tap;
                        sums.at[row][col][k] += x[k] * factors[at / QUAD][at % QUAD];
                    }
                }
            }
        }
    }
    return sums;
}
