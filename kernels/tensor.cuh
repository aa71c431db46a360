// A tile of a matrix product on tensor cores: TILE_M rows of a times TILE_N rows of b, factors rounded to
// bf16, sums in f32. The including file says how large TILE_M and TILE_N are.
//
// A factor that lies in memory as rows of bf16 is copied as it is, two tiles ahead. Any other is read into
// registers, one tile ahead, and rounded on its way to shared memory, so that what rides on it (a scale, a
// window) is applied once.
#pragma once
#include "chunk.cuh"

constexpr u32 TILE_K = 32; // terms of the sums at once
constexpr u32 STAGES = 3;  // tiles in shared memory: multiplied, there, and on its way
constexpr u32 THREADS = 256;
constexpr u32 CHUNKS = TILE_K / CHUNK;
constexpr u32 CHUNKS_M = TILE_M * CHUNKS / THREADS; // that a thread loads
constexpr u32 CHUNKS_N = TILE_N * CHUNKS / THREADS;
constexpr u32 WARPS_M = 2, WARPS_N = THREADS / 32 / WARPS_M;
constexpr u32 WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N; // of the result, a warp's
constexpr u32 MMA_M = WARP_M / 16, MMA_N = WARP_N / 8;
static_assert(CHUNKS == 4 && CHUNKS_M > 0 && CHUNKS_N > 0 && MMA_M > 0 && MMA_N % 2 == 0, "tiles are whole");

struct Factors {
    alignas(128) u16 a[STAGES][TILE_M * TILE_K];
    alignas(128) u16 b[STAGES][TILE_N * TILE_K];
};

// Where a chunk of a tile lies. A row has 64 bytes, half of what the banks hold: the exclusive or puts
// the same chunk of eight neighbouring rows into eight different sets of banks.
DEVICE u32 chunk_at(u32 row, u32 chunk) { return row * TILE_K + (chunk ^ (row >> 1 & 3)) * CHUNK; }

// Row of the tile, and first term, of chunk i of this thread's.
DEVICE u32 chunk_row(u32 i) { return threadIdx.x / CHUNKS + i * (THREADS / CHUNKS); }
DEVICE u32 chunk_term() { return threadIdx.x % CHUNKS * CHUNK; }

// Writes a chunk, rounded.
DEVICE void store_chunk(u16* tile, u32 row, u32 chunk, const float (&values)[CHUNK]) {
    *reinterpret_cast<uint4*>(&tile[chunk_at(row, chunk)]) = round_chunk(values);
}

// A warp's part of the result; of[i][j] as `multiply` leaves it.
struct Sums {
    float of[MMA_M][MMA_N][4] = {};

    // f(row, column, sums) for every result of the tile, a chunk at a time, neighbouring lanes along a row.
    // They change lanes through shared memory, a few rows at a time, which is also what keeps f from being
    // written out for each of a thread's sums.
    template <class F> DEVICE void each(Factors& s, const F& f) const {
        const u32 row = warp() / WARPS_N * WARP_M, column = warp() % WARPS_N * WARP_N;
        float* mine = reinterpret_cast<float*>(&s) + warp() * ROWS * STRIDE;
        __syncthreads(); // the factors have been used
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
                float sums[CHUNK];
                load_reals(sums, mine + r * STRIDE + c, CHUNK, true);
                f(row + from + r, column + c, sums);
            }
            __syncwarp();
        }
    }

  private:
    static constexpr u32 ROWS = WARP_M / 2;
    static constexpr u32 STRIDE = WARP_N + 8; // four rows of pairs lie in different banks
    static_assert(WARP_N % CHUNK == 0 && ROWS % 16 == 0 && THREADS / 32 * ROWS * STRIDE * sizeof(float) <= sizeof(Factors), "it has room");
};

// sums += a tile of a times a tile of b, both in shared memory.
DEVICE void multiply_tiles(Sums& sums, const u16* a, const u16* b) {
    const u32 row = warp() / WARPS_N * WARP_M + lane() % 16;
    const u32 column = warp() % WARPS_N * WARP_N + lane() / 16 * 8 + lane() % 8;
#pragma unroll
    for (u32 k = 0; k < CHUNKS; k += 2) {
        u32 x[MMA_M][4], y[MMA_N / 2][4];
#pragma unroll
        for (u32 i = 0; i < MMA_M; ++i) load_matrices(x[i], &a[chunk_at(row + i * 16, k + lane() / 16)]);
        for (u32 j = 0; j < MMA_N / 2; ++j) load_matrices(y[j], &b[chunk_at(column + j * 16, k + lane() / 8 % 2)]);
        for (u32 i = 0; i < MMA_M; ++i) {
            for (u32 j = 0; j < MMA_N; ++j) multiply(sums.of[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
}

// sums += the product over `depth` terms.
//
// a.load(values, i, k): eight terms from k on of row chunk_row(i), zeros beyond the last row and term; or, if
// A::ASYNC, a.chunk(i, k): where these lie as bf16, null for zeros. b likewise.
template <class A, class B> DEVICE void product(Factors& s, Sums& sums, u32 depth, const A& a, const B& b) {
    constexpr bool ASYNC = A::ASYNC || B::ASYNC;
    float next_a[CHUNKS_M][CHUNK], next_b[CHUNKS_N][CHUNK];
    const auto fetch = [&](u32 tile) {
        const u32 k = tile * TILE_K + chunk_term();
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
        const void* from = matrix.chunk(i, tile * TILE_K + chunk_term());
        copy_async(&stage[chunk_at(chunk_row(i), threadIdx.x % CHUNKS)], from ? from : matrix.anywhere(), from);
    };
    const auto copy = [&](u32 tile) {
        if constexpr (A::ASYNC) {
            for (u32 i = 0; i < CHUNKS_M && tile < tiles; ++i) copy_chunk(a, s.a[tile % STAGES], i, tile);
        }
        if constexpr (B::ASYNC) {
            for (u32 i = 0; i < CHUNKS_N && tile < tiles; ++i) copy_chunk(b, s.b[tile % STAGES], i, tile);
        }
        if constexpr (ASYNC) copies_commit(); // one group a tile, so that waiting can count them
    };

    // Of tile t: fetched while t - 1 is multiplied, stored after it; copied while t - 2 is multiplied.
    copy(0);
    for (u32 tile = 0; tile <= tiles; ++tile) {
        if (tile < tiles) fetch(tile);
        if (tile > 0) {
            if constexpr (ASYNC) copies_wait<1>();
            __syncthreads(); // tile - 1 is there, and nobody uses tile - 2 any more
        }
        copy(tile + 1);
        if (tile > 0) multiply_tiles(sums, s.a[(tile - 1) % STAGES], s.b[(tile - 1) % STAGES]);
        if (tile < tiles) store(tile);
    }
    if constexpr (ASYNC) copies_wait<0>();
}

// Rows of a matrix [rows, depth] of bf16, each beginning at a multiple of 16 bytes, from row `first` on.
struct Bf16Matrix {
    static constexpr bool ASYNC = true;
    const u16* matrix;
    u32 first, rows, depth;
    DEVICE const void* chunk(u32 i, u32 k) const {
        const u32 row = first + chunk_row(i);
        return row < rows && k < depth ? matrix + row * depth + k : nullptr;
    }
    DEVICE const void* anywhere() const { return matrix; }
};

// The same of any matrix.
struct AnyMatrix {
    static constexpr bool ASYNC = false;
    Tensor matrix;
    u32 first, rows, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 row = first + chunk_row(i), count = row < rows && k < depth ? depth - k : 0;
        load_tensor(to, matrix, row * depth + k, count, depth % CHUNK == 0);
    }
};

// The product of a and a learned matrix [rows, depth], from its row `first` on.
template <class A>
DEVICE void product(Factors& s, Sums& sums, u32 depth, const A& a, const Tensor& matrix, u32 first, u32 rows) {
    if (matrix.kind == BF16 && depth % CHUNK == 0) {
        product(s, sums, depth, a, Bf16Matrix{static_cast<const u16*>(matrix.at), first, rows, depth});
    } else {
        product(s, sums, depth, a, AnyMatrix{matrix, first, rows, depth});
    }
}
