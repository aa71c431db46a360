// An f32 GEMM tile on CUDA cores: TILE_M rows of a times TILE_N rows of b (both K-major). The fallback kernels of linear,
// the convolutions and feed_forward are built from it; it needs no tensor cores and takes any shape.
#pragma once
#include "common.cuh"

constexpr u32 TILE_M = 64; // rows of the result per block
constexpr u32 TILE_N = 64; // columns of the result per block
constexpr u32 TILE_K = 16; // K per iteration
constexpr u32 THREADS = 256;
constexpr u32 SIDE = 4; // of the square of results in a thread's registers
static_assert(TILE_M * TILE_N == THREADS * SIDE * SIDE && TILE_M == TILE_N, "the threads' squares cover the tile");
static_assert(TILE_M * TILE_K == THREADS * SIDE, "a thread loads SIDE elements of each operand");

struct OperandTiles {
    // Stored K-major; the padding avoids bank conflicts when threads store their elements.
    float a[TILE_K][TILE_M + 4];
    float b[TILE_K][TILE_N + 4];
};

// The row of a and of b whose elements this thread loads.
DEVICE u32 loaded_row() { return threadIdx.x / SIDE; }

// Row and column within the tile of result (i, j) of this thread.
DEVICE u32 result_row(u32 i) { return threadIdx.x / (TILE_N / SIDE) * SIDE + i; }
DEVICE u32 result_column(u32 j) { return threadIdx.x % (TILE_N / SIDE) * SIDE + j; }

// sums += a b^T over `depth` elements of K. a(k) and b(k) return element k of this thread's loaded_row(), 0 if that row does
// not exist; they are not called with k >= depth.
template <class A, class B>
DEVICE void gemm_tile(OperandTiles& s, float (&acc)[SIDE][SIDE], u32 depth, const A& a, const B& b) {
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
        __syncthreads(); // the previous tile has been consumed
        for (u32 i = 0; i < SIDE; ++i) {
            s.a[first + i][row] = next_a[i];
            s.b[first + i][row] = next_b[i];
        }
        __syncthreads();
        // Loads of the next tile are in flight while this one is multiplied.
        if (from + TILE_K < depth) fetch(from + TILE_K);
#pragma unroll
        for (u32 k = 0; k < TILE_K; ++k) {
            const float4 x = *reinterpret_cast<const float4*>(&s.a[k][result_row(0)]);
            const float4 y = *reinterpret_cast<const float4*>(&s.b[k][result_column(0)]);
            const float xs[SIDE] = {x.x, x.y, x.z, x.w}, ys[SIDE] = {y.x, y.y, y.z, y.w};
            for (u32 i = 0; i < SIDE; ++i) {
                for (u32 j = 0; j < SIDE; ++j) acc[i][j] += xs[i] * ys[j];
            }
        }
    }
}
