// The fused prologue of a linear layer on Hopper's tensor cores: x * scale + shift in the fragments of A that a thread holds.
#pragma once
#include "linear.cuh"
#include "stages.cuh"

constexpr u32 ANY = ABSENT; // as a KIND below

// Of a fragment, a thread has two rows, eight rows apart, and in each two pairs of neighbouring columns, eight columns apart.
// KIND is how the shift is stored: BF16 or F32, which is decided once per tile, since a test at every element would take more
// instructions than the rest. All stages are then whole. ANY serves all other cases and tests at every element.
template <u32 KIND> struct ScaleA {
    static constexpr u32 ELEMENT = KIND == BF16 ? 2 : 4; // bytes of an element of the shift
    const float* scale[2]; // of the images of this thread's two rows
    Tensor shift;
    u32 column, depth; // this thread's first column of the stage, and how many columns x has

    // `row` is the thread's first row, `first` the column where the first stage begins.
    DEVICE ScaleA(const Args& a, u32 row, u32 first)
        : shift(a.tensor(SHIFT)), column(first + lane() % 4 * 2), depth(a.shape[X].c) {
        // Rows past the last are multiplied, but not stored.
        for (u32 i = 0; i < 2; ++i) {
            scale[i] = a.real(SCALE) + min_of(row + 8 * i, a.out.rows() - 1) / a.out.tokens() * depth;
        }
        if constexpr (KIND != ANY) advance(column);
    }
    DEVICE void next_stage() {
        if constexpr (KIND != ANY) advance(TILE_K);
        column += TILE_K;
    }
    // x holds 16 columns, from column k of the stage on.
    DEVICE void apply_to(u32 (&x)[4], u32 k) const {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 at = place(k + half * 8);
            const float2 add = shift_at(at);
#pragma unroll
            for (u32 r = 0; r < 2; ++r) {
                const float2 by = *reinterpret_cast<const float2*>(scale[r] + at);
                u32& pair = x[half * 2 + r];
                pair = to_bf16(from_bf16(u16(pair)) * by.x + add.x, from_bf16(u16(pair >> 16)) * by.y + add.y);
            }
        }
    }

  private:
    // Pointers that advance, so that loads have constant offsets from them.
    DEVICE void advance(u32 columns) {
        for (u32 i = 0; i < 2; ++i) scale[i] += columns;
        shift.at = static_cast<const char*>(shift.at) + columns * ELEMENT;
    }
    // Where the scale and the shift of the thread's column k of the stage are.
    DEVICE u32 place(u32 k) const {
        // Past the last column the weight is zero, and any finite scale will do.
        return KIND == ANY ? min_of(column + k, depth - 2) : k;
    }
    // Of two neighbouring columns; `at` is even.
    DEVICE float2 shift_at(u32 at) const {
        if constexpr (KIND == BF16) {
            const u32 pair = static_cast<const u32*>(shift.at)[at / 2];
            return make_float2(from_bf16(u16(pair)), from_bf16(u16(pair >> 16)));
        } else if constexpr (KIND == F32) {
            return *reinterpret_cast<const float2*>(static_cast<const float*>(shift.at) + at);
        } else {
            return shift ? make_float2(shift[at], shift[at + 1]) : make_float2(0.0f, 0.0f);
        }
    }
};
