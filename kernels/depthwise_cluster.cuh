// depthwise_norm on Hopper: the blocks of a cluster split the channels of a tile of pixels and exchange statistics through
// distributed shared memory. So the tile can be large although there are many channels, and its halo costs little.
#pragma once
#include "hopper.cuh"
#include "float4.cuh"
#include "warp_sums.cuh"

constexpr u32 KSIZE = 3;
constexpr u32 TAPS = KSIZE * KSIZE;
constexpr u32 WARPS = THREADS / 32;
// Warps that together hold a block's channels of a pixel.
constexpr u32 GROUP_WARPS = CHANNELS > 32 * VEC * 2 ? 4 : CHANNELS > 32 * VEC ? 2 : 1;
constexpr u32 GROUPS = WARPS / GROUP_WARPS;
constexpr u32 TILE_W = GROUPS * 2; // a thread computes two columns of the tile, all rows
constexpr u32 ROWS_IN = TILE_H + KSIZE - 1, COLUMNS_IN = TILE_W + KSIZE - 1;
constexpr u32 PIXELS = TILE_H * 2;
static_assert(TILE_W == COLUMNS * CLUSTER_X && CLUSTER_Y == 1, "the grid is computed from COLUMNS");
static_assert(CHANNELS <= GROUP_WARPS * 32 * VEC, "every vector has a thread");

struct Shared {
    float4 x[ROWS_IN][COLUMNS_IN][CHANNELS / VEC];
    float2 stats[CLUSTER_X][WARPS][WARP_SUMS]; // mean of a warp's channels, and sum of squared deviations
};

// A thread's results: two columns of the tile, four channels.
struct Columns {
    Float4 at[PIXELS]; // row by row
    Float4 weights[TAPS]; // as in the weight: [4 channels][TAPS]
};

// Adds the contribution of input row I as soon as it has landed, then recursively that of the rows after it.
template <u32 I> DEVICE void add_rows(Columns& y, const Shared& s, u32 group, u32 vec, bool inside) {
    copies_wait<ROWS_IN - 1 - I>();
    __syncthreads(); // other threads' copies
    if (inside) {
        Float4 x[2 + KSIZE - 1];
#pragma unroll
        for (u32 j = 0; j < 2 + KSIZE - 1; ++j) x[j] = load_float4(&s.x[I][2 * group + j][vec].x, 0);
#pragma unroll
        for (u32 tap = 0; tap < TAPS; ++tap) {
            const u32 row = I - tap / KSIZE; // a negative value wraps around
            if (row >= TILE_H) continue;
#pragma unroll
            for (u32 i = 0; i < 2 * VEC; ++i) {
                const u32 col = i / VEC, k = i % VEC, at = k * TAPS + tap;
                y.at[2 * row + col][k] += x[col + tap % KSIZE][k] * y.weights[at / VEC][at % VEC];
            }
        }
    }
    if constexpr (I + 1 < ROWS_IN) add_rows<I + 1>(y, s, group, vec, inside);
}

DEVICE void depthwise_norm_of_cluster(const Args& a, Shared& s) {
    const u32 c = a.out.c, h = a.out.h, w = a.out.w, image = blockIdx.z, rank = cluster_rank();
    const u32 first_row = blockIdx.y * TILE_H, first_col = blockIdx.x / CLUSTER_X * TILE_W;
    const u32 group = warp() / GROUP_WARPS, vec = warp() % GROUP_WARPS * 32 + lane();
    // Every block of the cluster takes the same number of vectors, except that the last ones may have fewer.
    const u32 part = div_up(c / VEC, CLUSTER_X), begin = min_of(rank * part, c / VEC);
    const bool inside = vec < min_of(part, c / VEC - begin);
    const u32 channel = inside ? (begin + vec) * VEC : 0;
    const auto element = [&](u32 row, u32 col) { return ((image * h + row) * w + col) * c + channel; };

    // No launch writes weights: these loads, and the other blocks' begin, need not wait for the previous one.
    Columns y;
    load_float4s(y.weights, a.tensor(1), channel * TAPS);
    const Float4 bias = load_float4(a.tensor(2), channel);
    cluster_begin();
    wait_for_previous_launch();
    for (u32 i = 0; i < ROWS_IN; ++i) {
        const u32 row = first_row + i - 1; // -1 wraps around and fails the bounds test
        for (u32 j = group; inside && j < COLUMNS_IN; j += GROUPS) {
            const u32 col = first_col + j - 1;
            const bool there = row < h && col < w;
            copy_async(&s.x[i][j][vec], a.real(0) + (there ? element(row, col) : 0), there);
        }
        copies_commit();
    }
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) y.at[p] = inside ? bias : Float4{};
    add_rows<0>(y, s, group, vec, inside);

    // Mean and squared deviations of each warp's channels, merged over all warps: as accurate as a second pass over all.
    const auto channels = [&](u32 of, u32 warp) { // number of channels of a warp of block `of`
        const u32 from = min_of(of * part + warp * 32, c / VEC), most = min_of((of + 1) * part, c / VEC);
        return float(min_of(most - min_of(from, most), 32) * VEC);
    };
    const float mine = channels(rank, warp() % GROUP_WARPS);
    const float mean_of_warp = warp_sums<PIXELS>([&](u32 p) { return y.at[p].sum(); }) / fmaxf(mine, 1.0f);
    const float squares_of_warp = warp_sums<PIXELS>([&](u32 p) {
        const float mean = __shfl_sync(0xffffffffu, mean_of_warp, 2 * p);
        float sum = 0.0f;
        for (u32 k = 0; k < VEC; ++k) sum += (y.at[p][k] - mean) * (y.at[p][k] - mean);
        return inside ? sum : 0.0f;
    });
    float* place = reinterpret_cast<float*>(&s.stats[rank][warp()]) + lane();
    for (u32 r = 0; r < CLUSTER_X; ++r) store_at(r, place, lane() % 2 == 0 ? mean_of_warp : squares_of_warp);
    cluster_barrier();
    float mean = 0.0f, squares = 0.0f; // for pixel lane() / 2
    for (u32 r = 0; r < CLUSTER_X; ++r) {
        for (u32 i = 0; i < GROUP_WARPS; ++i) mean += channels(r, i) * s.stats[r][group * GROUP_WARPS + i][lane() / 2].x;
    }
    mean /= float(c);
    for (u32 r = 0; r < CLUSTER_X; ++r) {
        for (u32 i = 0; i < GROUP_WARPS; ++i) {
            const float2 of = s.stats[r][group * GROUP_WARPS + i][lane() / 2];
            squares += of.y + channels(r, i) * (of.x - mean) * (of.x - mean);
        }
    }
    const float rstd = 1.0f / sqrtf(squares / float(c) + a.number(0));
#pragma unroll
    for (u32 p = 0; p < PIXELS; ++p) {
        const u32 row = first_row + p / 2, col = first_col + 2 * group + p % 2;
        const float less = __shfl_sync(0xffffffffu, mean, 2 * p), by = __shfl_sync(0xffffffffu, rstd, 2 * p);
        for (u32 k = 0; k < VEC; ++k) y.at[p][k] = (y.at[p][k] - less) * by;
        if (inside && row < h && col < w) store_float4(a, element(row, col), y.at[p]);
    }
}
