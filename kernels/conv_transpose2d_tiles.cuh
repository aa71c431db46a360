// A transposed convolution of stride 2 on Hopper, as a GEMM of input pixels and weight. The including file defines the tile,
// TILE_H x TILE_W pixels by TILE_N columns, the number of STAGES, and whether the two blocks of a cluster are neighbours
// along columns (CLUSTER_X = 2), so that they share x, or along pixels (CLUSTER_Y = 2), so that they share the weight.
//
// Output pixels whose row and column leave the same remainders modulo 2 form one of four residue classes, each with as many
// pixels as x. The weight is a matrix [K, columns]:
// * With a 2 x 2 kernel each class uses one tap (TAPS = 1), and the weight is used as it is stored: column 4 o + i is
//   channel o of class i.
// * With a 4 x 4 kernel and padding 1 each class uses 2 x 2 taps (TAPS = 2), which read adjacent pixels of x. A pass before
//   rearranges the weight: K runs over taps, then input channels; columns run over classes, then output channels.
//
// One producer warp copies tiles of x and of the weight, up to STAGES ahead; consumer warpgroups multiply them, 64 pixels
// each. Of the shared operand each block copies one half to both blocks by multicast, so a stage is free only when the
// consumers of both blocks have released it.
#pragma once
#include "conv.cuh"
#include "stages.cuh"

constexpr u32 CLASSES = 4;
constexpr u32 SETS = TAPS == 1 ? CLASSES : 1; // classes per tile
constexpr u32 TILE_M = TILE_H * TILE_W;
constexpr u32 GROUP = 128; // threads of a warpgroup
constexpr u32 CONSUMERS = TILE_M / 64;
constexpr u32 STRIP = 32;                  // columns of the weight per strip: 64 bytes, the width of its swizzle
constexpr u32 LINES = TILE_H / CLUSTER_X;  // rows of pixels of an x tile that this block copies
constexpr u32 TERMS = TILE_K / CLUSTER_Y;  // K elements of a weight tile that this block copies
constexpr u32 STRIDE = TILE_N + 4;         // of staged accumulators
constexpr u32 STAGE_BYTES = (TILE_M + TILE_N) * TILE_K * sizeof(u16);
static_assert(THREADS == CONSUMERS * GROUP + 32 && TILE_M % 64 == 0, "a warpgroup has 64 pixels, a warp copies");
static_assert(CHANNELS == TILE_N / SETS && CHANNELS % CHUNK == 0, "a chunk is of one class");
static_assert(CLUSTER == 2 && TILE_N % STRIP == 0, "a cluster is two blocks, strips are whole");

struct Stages {
    union {
        struct {
            alignas(1024) u16 x[STAGES][TILE_M * TILE_K];
            alignas(1024) u16 weight[STAGES][TILE_N * TILE_K]; // one block's K elements, strip by strip, then the other block's
        };
        float sums[TILE_M][STRIDE]; // the epilogue's staging, ordered by class
    };
    TileBarrier full[STAGES], empty[STAGES];
};

// A block's tile: its first pixel, class and channel, and the first column of the weight.
struct Place {
    u32 image, y, x, set, channel, column;
    DEVICE explicit Place(const Args& a)
        : set(blockIdx.x % (CLASSES / SETS)), channel(blockIdx.x / (CLASSES / SETS) * CHANNELS),
          column(TAPS == 1 ? channel * CLASSES : set * a.out.c + channel) {
        const u32 across = div_up(a.shape[X].w, TILE_W), down = div_up(a.shape[X].h, TILE_H);
        x = blockIdx.y % across * TILE_W;
        y = blockIdx.y / across % down * TILE_H;
        image = blockIdx.y / across / down; // beyond the last in a block that only fills up a cluster: it loads zeros and stores nothing
    }
};

// The producer: issues the copies of all stages. Called by one thread.
DEVICE void produce(const Args& a, Stages& s, const Maps& maps, const Place& at) {
    const u32 line = cluster_rank() % CLUSTER_X * LINES, term = cluster_rank() / CLUSTER_X * TERMS;
    const u32 depth = a.shape[X].c;
    Turn turn;
    for (u32 tap = 0; tap < TAPS * TAPS; ++tap) {
        // With one tap per class the input pixel is the tile's own; with 2 x 2 taps it is shifted, depending on class and tap.
        const u32 y = at.y + line + (TAPS == 1 ? 0 : at.set / 2 - tap / 2), x = at.x + (TAPS == 1 ? 0 : at.set % 2 - tap % 2);
        for (u32 k = 0; k < depth; k += TILE_K, turn.next()) {
            TileBarrier& full = s.full[turn.stage];
            s.empty[turn.stage].wait(turn.parity ^ 1); // the first wait is for the phase before the first, which counts as over
            full.arrive_expecting(STAGE_BYTES);
            u16* to_x = &s.x[turn.stage][line * TILE_W * TILE_K];
            u16* to_weight = &s.weight[turn.stage][term * TILE_N];
            // K elements past the end of this tap are the next tap's or zeros, which is harmless: x is zero there.
            if constexpr (CLUSTER_X == 2) {
                copy_pixels_to(3, to_x, maps.of[X], k, x, y, at.image, full);
                copy_tile(to_weight, maps.of[WEIGHT], 0, tap * depth + k, at.column / STRIP, full);
            } else {
                copy_pixels(to_x, maps.of[X], k, x, y, at.image, full);
                copy_tile_to(3, to_weight, maps.of[WEIGHT], 0, tap * depth + k + term, at.column / STRIP, full);
            }
        }
    }
}

// A consumer: sums = x w over all stages.
DEVICE void consume(const Args& a, Stages& s, float (&sums)[TILE_N / 2], u32 group) {
    const auto start = [&](u32 stage, bool onto) {
        const u16* x = &s.x[stage][group * 64 * TILE_K];
        products_fence();
#pragma unroll
        for (u32 k = 0; k < TILE_K; k += 16) {
            const u16* weight = &s.weight[stage][k / TERMS * TERMS * TILE_N + k % TERMS * STRIP];
            start_product<true>(sums, x + k, Strips{weight, TERMS * STRIP}, onto || k > 0);
        }
        products_commit();
    };
    multiply_stages(s, TAPS * TAPS * div_up(a.shape[X].c, TILE_K), start);
}

// The epilogue of a warp's 16 pixels: transposes accumulators through shared memory, so that a class's channels are contiguous.
DEVICE void store_tile(const Args& a, Stages& s, const float (&sums)[TILE_N / 2], const Place& at) {
    group_barrier<1, CONSUMERS * GROUP>(); // all stages have been consumed
    constexpr u32 CHUNKS = TILE_N / CHUNK; // per pixel
    const u32 first = warp() * 16;
#pragma unroll
    for (u32 j = 0; j < TILE_N / 8; ++j) {
        for (u32 i = 0; i < 2; ++i) {
            const u32 column = j * 8 + lane() % 4 * 2 + i;
            float* to = &s.sums[first + lane() / 4][column % SETS * CHANNELS + column / SETS];
            to[0] = sums[4 * j + i], to[8 * STRIDE] = sums[4 * j + 2 + i];
        }
    }
    __syncwarp();
#pragma unroll 1
    for (u32 i = lane(); i < 16 * CHUNKS; i += 32) {
        const u32 pixel = first + i / CHUNKS, from = i % CHUNKS * CHUNK;
        const u32 y = at.y + pixel / TILE_W, x = at.x + pixel % TILE_W;
        if (at.image >= a.out.n || y >= a.shape[X].h || x >= a.shape[X].w) continue;
        const u32 set = at.set + from / CHANNELS, row = 2 * y + set / 2, column = 2 * x + set % 2;
        float chunk[CHUNK];
        load_reals(chunk, &s.sums[pixel][from], CHUNK, true);
        store_pixel(a, (at.image * a.out.h + row) * a.out.w + column, at.channel + from % CHANNELS, chunk);
    }
}

// Computes and stores a block's tile.
DEVICE void conv_transpose_on_tiles(const Args& a, const Maps& maps, Stages& s) {
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < STAGES; ++i) s.full[i].init(1), s.empty[i].init(4 * CONSUMERS * CLUSTER);
        show_barriers();
    }
    cluster_barrier();
    const Place at(a);
    if (threadIdx.x >= CONSUMERS * GROUP) {
        if (threadIdx.x == CONSUMERS * GROUP) produce(a, s, maps, at);
        __syncwarp(); // the cluster barrier counts whole warps
        cluster_arrive();
    } else {
        float sums[TILE_N / 2];
        consume(a, s, sums, threadIdx.x / GROUP);
        cluster_arrive(); // no other block waits for the stores below
        store_tile(a, s, sums, at);
    }
    cluster_wait(); // until then the other block writes to this one's stages and barriers
}
