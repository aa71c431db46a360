// A bf16 GEMM tile on tensor cores (mma.sync): TILE_M rows of a times TILE_N rows of b, accumulated in f32. The including
// file defines TILE_M and TILE_N.
//
// An operand stored as bf16 rows is copied by cp.async, two K tiles ahead. Any other operand is loaded into registers one
// K tile ahead and rounded to bf16 on its way to shared memory, so that a fused prologue (a scale, im2col) is applied to
// each element once.
#pragma once
#include "chunk.cuh"

constexpr u32 TILE_K = 32; // K per iteration
constexpr u32 STAGES = 3;  // of the pipeline: being multiplied, landed, in flight
constexpr u32 THREADS = 256;
constexpr u32 CHUNKS = TILE_K / CHUNK;
constexpr u32 CHUNKS_M = TILE_M * CHUNKS / THREADS; // per thread
constexpr u32 CHUNKS_N = TILE_N * CHUNKS / THREADS;
constexpr u32 WARPS_M = 2, WARPS_N = THREADS / 32 / WARPS_M;
constexpr u32 WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N; // the warp's part of the result
constexpr u32 MMA_M = WARP_M / 16, MMA_N = WARP_N / 8;
static_assert(CHUNKS == 4 && CHUNKS_M > 0 && CHUNKS_N > 0 && MMA_M > 0 && MMA_N % 2 == 0, "tiles are whole");

struct OperandTiles {
    alignas(128) u16 a[STAGES][TILE_M * TILE_K];
    alignas(128) u16 b[STAGES][TILE_N * TILE_K];
};

// Swizzled offset of a chunk. A row is 64 bytes, half the width of the banks; the exclusive or spreads the same chunk of
// eight neighbouring rows over eight different groups of banks, so that ldmatrix has no conflicts.
DEVICE u32 chunk_at(u32 row, u32 chunk) { return row * TILE_K + (chunk ^ (row >> 1 & 3)) * CHUNK; }

// This thread's chunk i: its row of the tile, and the first K element (the same for all i).
DEVICE u32 chunk_row(u32 i) { return threadIdx.x / CHUNKS + i * (THREADS / CHUNKS); }
DEVICE u32 chunk_k() { return threadIdx.x % CHUNKS * CHUNK; }

// Stores a chunk, rounded to bf16.
DEVICE void store_chunk(u16* tile, u32 row, u32 chunk, const float (&values)[CHUNK]) {
    *reinterpret_cast<uint4*>(&tile[chunk_at(row, chunk)]) = round_chunk(values);
}

// A warp's accumulators; of[i][j] is the fragment of one MMA.
struct Accumulator {
    float of[MMA_M][MMA_N][4] = {};

    // The epilogue: calls f(row, column, sums) for each chunk of eight results; neighbouring lanes get neighbouring chunks
    // of a row. The accumulators are transposed through shared memory, ROWS rows at a time, for coalesced stores; this
    // also compiles f once per chunk instead of once per accumulator.
    template <class F> DEVICE void each(OperandTiles& s, const F& f) const {
        const u32 row = warp() / WARPS_N * WARP_M, column = warp() % WARPS_N * WARP_N;
        float* mine = reinterpret_cast<float*>(&s) + warp() * ROWS * STRIDE;
        __syncthreads(); // the operand tiles have been consumed
#pragma unroll
        for (u32 from = 0; from < WARP_M; from += ROWS) {
            for (u32 i = 0; i < ROWS / 16; ++i) {
                for (u32 j = 0; j < MMA_N; ++j) {
                    const float(&v)[4] = of[from / 16 + i][j];
                    float* at = mine + (i * 16 + lane() / 4) * STRIDE + j * 8 + lane() % 4 * 2;
                    *reinterpret_cast<float2*>(at) = make_float2(v[0], v[1]);
                    *reinterpret_cast<float2*>(at + 8 * STRIDE) = make_float2(v[2], v[3]);
                }
            }
            __syncwarp();
            for (u32 i = lane(); i < ROWS * WARP_N / CHUNK; i += 32) {
                const u32 r = i / (WARP_N / CHUNK), c = i % (WARP_N / CHUNK) * CHUNK;
                float acc[CHUNK];
                load_reals(acc, mine + r * STRIDE + c, CHUNK, true);
                f(row + from + r, column + c, acc);
            }
            __syncwarp();
        }
    }

  private:
    static constexpr u32 ROWS = WARP_M / 2;
    static constexpr u32 STRIDE = WARP_N + 8; // the padding spreads a fragment's four rows over different banks
    static_assert(WARP_N % CHUNK == 0 && ROWS % 16 == 0, "whole chunks and fragments");
    static_assert(THREADS / 32 * ROWS * STRIDE * sizeof(float) <= sizeof(OperandTiles), "the staged rows fit");
};

// sums += a b^T for one K tile of each operand in shared memory.
DEVICE void mma_tiles(Accumulator& acc, const u16* a, const u16* b) {
    const u32 row = warp() / WARPS_N * WARP_M + lane() % 16;
    const u32 column = warp() % WARPS_N * WARP_N + lane() / 16 * 8 + lane() % 8;
#pragma unroll
    for (u32 k = 0; k < CHUNKS; k += 2) {
        u32 x[MMA_M][4], y[MMA_N / 2][4];
#pragma unroll
        for (u32 i = 0; i < MMA_M; ++i) load_matrices(x[i], &a[chunk_at(row + i * 16, k + lane() / 16)]);
        for (u32 j = 0; j < MMA_N / 2; ++j) load_matrices(y[j], &b[chunk_at(column + j * 16, k + lane() / 8 % 2)]);
        for (u32 i = 0; i < MMA_M; ++i) {
            for (u32 j = 0; j < MMA_N; ++j) mma_bf16(acc.of[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
}

// sums += a b^T over `depth` elements of K.
//
// If A::ASYNC, a.chunk(i, k) is the address of eight bf16 elements of row chunk_row(i) from k on, or null for zeros.
// Otherwise a.load(values, i, k) loads those elements, with zeros beyond the last row and beyond K. The same holds for b.
template <class A, class B> DEVICE void gemm_tile(OperandTiles& s, Accumulator& acc, u32 depth, const A& a, const B& b) {
    constexpr bool ASYNC = A::ASYNC || B::ASYNC;
    float next_a[CHUNKS_M][CHUNK], next_b[CHUNKS_N][CHUNK];
    const auto fetch = [&](u32 tile) {
        const u32 k = tile * TILE_K + chunk_k();
        if constexpr (!A::ASYNC) {
#pragma unroll
            for (u32 i = 0; i < CHUNKS_M; ++i) a.load(next_a[i], i, k);
        }
        if constexpr (!B::ASYNC) {
#pragma unroll
            for (u32 i = 0; i < CHUNKS_N; ++i) b.load(next_b[i], i, k);
        }
    };
    const auto store = [&](u32 tile) {
        const u32 chunk = threadIdx.x % CHUNKS;
        if constexpr (!A::ASYNC) {
#pragma unroll
            for (u32 i = 0; i < CHUNKS_M; ++i) store_chunk(s.a[tile % STAGES], chunk_row(i), chunk, next_a[i]);
        }
        if constexpr (!B::ASYNC) {
#pragma unroll
            for (u32 i = 0; i < CHUNKS_N; ++i) store_chunk(s.b[tile % STAGES], chunk_row(i), chunk, next_b[i]);
        }
    };
    const u32 tiles = div_up(depth, TILE_K);
    const auto copy_chunk = [&](const auto& matrix, u16* stage, u32 i, u32 tile) {
        const void* from = matrix.chunk(i, tile * TILE_K + chunk_k());
        copy_async(&stage[chunk_at(chunk_row(i), threadIdx.x % CHUNKS)], from ? from : matrix.any_address(), from);
    };
    const auto copy = [&](u32 tile) {
        if constexpr (A::ASYNC) {
            for (u32 i = 0; i < CHUNKS_M && tile < tiles; ++i) copy_chunk(a, s.a[tile % STAGES], i, tile);
        }
        if constexpr (B::ASYNC) {
            for (u32 i = 0; i < CHUNKS_N && tile < tiles; ++i) copy_chunk(b, s.b[tile % STAGES], i, tile);
        }
        if constexpr (ASYNC) copies_commit(); // one group per tile, even if empty, so that copies_wait can count tiles
    };

    // Tile t is copied while t - 2 is multiplied; or loaded while t - 1 is, and stored afterwards.
    copy(0);
    for (u32 tile = 0; tile <= tiles; ++tile) {
        if (tile < tiles) fetch(tile);
        if (tile > 0) {
            if constexpr (ASYNC) copies_wait<1>();
            __syncthreads(); // tile - 1 has landed, and no warp reads tile - 2 any more
        }
        copy(tile + 1);
        if (tile > 0) mma_tiles(acc, s.a[(tile - 1) % STAGES], s.b[(tile - 1) % STAGES]);
        if (tile < tiles) store(tile);
    }
    if constexpr (ASYNC) copies_wait<0>();
}

// Rows of a bf16 matrix [rows, depth] from row `first` on; each row starts at a multiple of 16 bytes.
struct Bf16Matrix {
    static constexpr bool ASYNC = true;
    const u16* matrix;
    u32 first, rows, depth;
    DEVICE const void* chunk(u32 i, u32 k) const {
        const u32 row = first + chunk_row(i);
        return row < rows && k < depth ? matrix + row * depth + k : nullptr;
    }
    DEVICE const void* any_address() const { return matrix; }
};

// The same for a matrix of any storage type.
struct AnyMatrix {
    static constexpr bool ASYNC = false;
    Tensor matrix;
    u32 first, rows, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 row = first + chunk_row(i), count = row < rows && k < depth ? depth - k : 0;
        load_tensor(to, matrix, row * depth + k, count, depth % CHUNK == 0);
    }
};

// sums += a b^T for a weight matrix b [rows, depth] from its row `first` on.
template <class A>
DEVICE void gemm_tile(OperandTiles& s, Accumulator& acc, u32 depth, const A& a, const Tensor& matrix, u32 first, u32 rows) {
    if (matrix.kind == BF16 && depth % CHUNK == 0) {
        gemm_tile(s, acc, depth, a, Bf16Matrix{static_cast<const u16*>(matrix.at), first, rows, depth});
    } else {
        gemm_tile(s, acc, depth, a, AnyMatrix{matrix, first, rows, depth});
    }
}
