// A tile of an exact matrix product: TILE_M rows of a times TILE_N rows of b, in f32.
// What every product's last row is made of: linear, the convolutions, feed_forward.
#pragma once
#include "common.cuh"

constexpr u32 TILE_M = 64; // rows of the result a block
constexpr u32 TILE_N = 64; // columns of the result a block
constexpr u32 TILE_K = 16; // terms of the sums at once
constexpr u32 THREADS = 256;
constexpr u32 SIDE = 4; // of a thread's square of results
static_assert(TILE_M * TILE_N == THREADS * SIDE * SIDE && TILE_M == TILE_N, "every result has a thread");
static_assert(TILE_M * TILE_K == THREADS * SIDE, "a thread loads as many as its square is wide");

struct Factors {
    // Term by term; the padding lets a thread store its terms to different banks.
    float a[TILE_K][TILE_M + 4];
    float b[TILE_K][TILE_N + 4];
};

// The row of a and of b that this thread loads.
DEVICE u32 loaded_row() { return threadIdx.x / SIDE; }

// Row and column of this thread's result (i, j).
DEVICE u32 result_row(u32 i) { return threadIdx.x / (TILE_N / SIDE) * SIDE + i; }
DEVICE u32 result_column(u32 j) { return threadIdx.x % (TILE_N / SIDE) * SIDE + j; }

// sums += the product over `depth` terms. a(k) and b(k) are term k of this thread's loaded_row(); they
// answer 0 beyond the last row, and are not asked beyond the last term.
template <class A, class B>
DEVICE void product(Factors& s, float (&sums)[SIDE][SIDE], u32 depth, const A& a, const B& b) {
    const u32 row = loaded_row(), first = threadIdx.x % SIDE * SIDE;
    float next_a[SIDE], next_b[SIDE];
    const auto fetch = [&](u32 from) {
        for (u32 i = 0; i < SIDE; ++i) {
            const u32 k = from + first + i;
            next_a[i] = k < depth ? a(k) : 0.0f;
            next_b[i] = k < depth ? b(k) : 0.0f;
        }
    };
    fetch(0);
    for (u32 from = 0; from < depth; from += TILE_K) {
        __syncthreads(); // the tile before has been used
        for (u32 i = 0; i < SIDE; ++i) {
            s.a[first + i][row] = next_a[i];
            s.b[first + i][row] = next_b[i];
        }
        __syncthreads();
        // On their way while this tile is used.
        if (from + TILE_K < depth) fetch(from + TILE_K);
#pragma unroll
        for (u32 k = 0; k < TILE_K; ++k) {
            const float4 x = *reinterpret_cast<const float4*>(&s.a[k][result_row(0)]);
            const float4 y = *reinterpret_cast<const float4*>(&s.b[k][result_column(0)]);
            const float xs[SIDE] = {x.x, x.y, x.z, x.w}, ys[SIDE] = {y.x, y.y, y.z, y.w};
            for (u32 i = 0; i < SIDE; ++i) {
                for (u32 j = 0; j < SIDE; ++j) sums[i][j] += xs[i] * ys[j];
            }
        }
    }
}
