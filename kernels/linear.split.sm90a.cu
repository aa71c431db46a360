// linear: y = f((x * scale + shift) W^T + bias) + residual, then y (1 + a) + b, on Hopper's tensor cores, terms split up
//
// Operands as in linear.cu; x and the weight are bf16, their channels and those of out multiples of eight.
//
// Launch     one block for every TILE_M rows, TILE_N channels and SPLITS-th part of the terms, THREADS threads: two
//            groups of four warps that multiply, one that copies. Two blocks form a cluster and share x. Then one
//            thread for eight results, which adds up the parts, always in the same order.
// Shared     209 KiB: 8 stages of 64 terms, 26 KiB each; the sums at the end.
// Memory     reads x once for every 2 TILE_N channels, the weight once for every TILE_M rows; writes and reads SPLITS
//            parts of the result in f32.
// Numerics   x * scale + shift is rounded to bf16; sums and all the rest in f32.
// Needs      sm_90a: copies of tiles, wgmma, clusters.
// Tunables   TILE_M, TILE_N, STAGES, CLUSTER_X, CLUSTER_Y, SPLITS.
// Reference  src/ops/linear.rs
#include "common.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 80;
constexpr u32 STAGES = 8;
constexpr u32 SPLITS = 4;
constexpr u32 CLUSTER_X = 1;
constexpr u32 CLUSTER_Y = 2;
constexpr u32 THREADS = 384;
constexpr u32 SHARED = 214016;
constexpr u32 PER_BLOCK = 3072; // results, of the second pass
#include "linear_tiles.cuh"
static_assert(PER_BLOCK == CHUNK * THREADS, "a chunk a thread");

// Sums of a part, as they are.
struct Part {
    const Args& a;
    float* sums;
    DEVICE void load_bias(u32, float (&)[CHUNK]) const {}
    DEVICE void load_residual(u32, u32, float (&)[CHUNK]) const {}
    DEVICE void store(u32 row, u32 column, const float (&y)[CHUNK], const float (&)[CHUNK], const float (&)[CHUNK]) const {
        if (row >= a.out.rows() || column >= a.out.c) return;
        float4* to = reinterpret_cast<float4*>(sums + row * a.out.c + column);
        to[0] = {y[0], y[1], y[2], y[3]};
        to[1] = {y[4], y[5], y[6], y[7]};
    }
};

KERNEL_TILED(linear_split_sm90a) {
    SHARED_TILES(Stages, s);
    const u32 all = div_up(a.shape[X].c, TILE_K), each = div_up(all, SPLITS), from = blockIdx.z * each;
    // A part without terms multiplies the zeros behind them.
    const u32 count = from < all ? min_of(each, all - from) : 1;
    linear_tile(a, maps, s, from * TILE_K, count, Part{a, a.scratch() + blockIdx.z * a.out.elements()});
}

KERNEL(linear_split_sm90a_sum) {
    const u32 first = CHUNK * this_element();
    if (first >= a.out.elements()) return;
    float y[CHUNK] = {};
    for (u32 i = 0; i < SPLITS; ++i) {
        float part[CHUNK];
        load_reals(part, a.scratch() + i * a.out.elements() + first, CHUNK, true);
        for (u32 j = 0; j < CHUNK; ++j) y[j] += part[j];
    }
    Epilogue<true>(a).store(first / a.out.c, first % a.out.c, y);
}
