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

constexpr u32 TILE_M = TILE_H * TILE_W;
#include "stages.cuh"

constexpr u32 CLASSES = 4;
constexpr u32 CLASSES_PER_TILE = TAPS == 1 ? CLASSES : 1;
constexpr u32 WARPGROUP = 128; // threads
constexpr u32 CONSUMERS = TILE_M / 64;
constexpr u32 STRIP = 32;                          // columns of the weight per strip: 64 bytes, the width of its swizzle
constexpr u32 ROWS_PER_BLOCK = TILE_H / CLUSTER_X; // rows of pixels of an x tile that this block copies
constexpr u32 K_PER_BLOCK = TILE_K / CLUSTER_Y;    // K elements of a weight tile that this block copies
constexpr u32 STRIDE = TILE_N + 4;                 // of staged accumulators
static_assert(THREADS == CONSUMERS * WARPGROUP + 32 && TILE_M % 64 == 0, "a warpgroup has 64 pixels, a warp copies");
static_assert(CHANNELS == TILE_N / CLASSES_PER_TILE && CHANNELS % CHUNK == 0, "a chunk is of one class");
static_assert(CLUSTER == 2 && TILE_N % STRIP == 0, "a cluster is two blocks, strips are whole");

struct Stages {
    union {
        struct {
            alignas(1024) u16 x[STAGES][TILE_M * TILE_K];
            alignas(1024) u16 weight[STAGES][TILE_N * TILE_K]; // one block's K elements, strip by strip, then the other block's
        };
        float staged[TILE_M][STRIDE]; // the epilogue's staging, ordered by class
    };
    TileBarrier full[STAGES], empty[STAGES];
};

// A block's tile: its first pixel, class and channel, and the first column of the weight.
struct Place {
    u32 image, y, x, cls, channel, column;
    DEVICE explicit Place(const Args& a)
        : cls(blockIdx.x % (CLASSES / CLASSES_PER_TILE)), channel(blockIdx.x / (CLASSES / CLASSES_PER_TILE) * CHANNELS),
          column(TAPS == 1 ? channel * CLASSES : cls * a.out.c + channel) {
        const u32 across = div_up(a.shape[X].w, TILE_W), down = div_up(a.shape[X].h, TILE_H);
        x = blockIdx.y % across * TILE_W;
        y = blockIdx.y / across % down * TILE_H;
        image = blockIdx.y / across / down; // past the last in a block that only pads the cluster: zeros in, nothing out
    }
};

// The copies of this block's parts of a stage. Stages run over taps, then input channels.
struct Copies {
    static constexpr bool EARLY = TAPS == 1; // else a launch rearranges the weight
    Stages& s;
    const Maps& maps;
    const Place& at;
    const u32 depth, per_tap; // input channels, and stages of them
    const u32 row0 = cluster_rank() % CLUSTER_X * ROWS_PER_BLOCK, k0 = cluster_rank() / CLUSTER_X * K_PER_BLOCK;
    DEVICE Copies(const Args& a, Stages& stages, const Maps& of, const Place& place)
        : s(stages), maps(of), at(place), depth(a.shape[X].c), per_tap(div_up(depth, TILE_K)) {}

    DEVICE u32 count() const { return TAPS * TAPS * per_tap; }
    DEVICE u32 tap(u32 i) const { return TAPS == 1 ? 0 : i / per_tap; }
    DEVICE u32 channel(u32 i) const { return (i - tap(i) * per_tap) * TILE_K; }

    DEVICE void x(u32 stage, u32 i) const {
        // With one tap per class the input pixel is the tile's own; with 2 x 2 taps it is shifted, depending on class and tap.
        const u32 y = at.y + row0 + (TAPS == 1 ? 0 : at.cls / 2 - tap(i) / 2);
        const u32 x = at.x + (TAPS == 1 ? 0 : at.cls % 2 - tap(i) % 2);
        u16* to = &s.x[stage][row0 * TILE_W * TILE_K];
        if constexpr (CLUSTER_X == 2) {
            copy_pixels_to(3, to, maps.of[X], channel(i), x, y, at.image, s.full[stage]);
        } else {
            copy_pixels(to, maps.of[X], channel(i), x, y, at.image, s.full[stage]);
        }
    }
    DEVICE void weight(u32 stage, u32 i) const {
        // K elements past the end of this tap are the next tap's or zeros, which is harmless: x is zero there.
        const u32 k = tap(i) * depth + channel(i) + k0;
        u16* to = &s.weight[stage][k0 * TILE_N];
        if constexpr (CLUSTER_X == 2) {
            copy_tile(to, maps.of[WEIGHT], 0, k, at.column / STRIP, s.full[stage]);
        } else {
            copy_tile_to(3, to, maps.of[WEIGHT], 0, k, at.column / STRIP, s.full[stage]);
        }
    }
};

// A consumer: acc = x w over all stages.
DEVICE void consume(Stages& s, float (&acc)[TILE_N / 2], u32 warpgroup, u32 count) {
    const auto start = [&](u32 stage, bool onto) {
        const u16* x = &s.x[stage][warpgroup * 64 * TILE_K];
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < TILE_K; k += 16) {
            const u16* weight = &s.weight[stage][k / K_PER_BLOCK * K_PER_BLOCK * TILE_N + k % K_PER_BLOCK * STRIP];
            start_wgmma<true>(acc, x + k, Strips{weight, K_PER_BLOCK * STRIP}, onto || k > 0);
        }
        wgmma_commit();
    };
    multiply_stages(s, count, start);
}

// The epilogue of a warp's 16 pixels: transposes accumulators through shared memory, so that a class's channels are contiguous.
DEVICE void store_tile(const Args& a, Stages& s, const float (&acc)[TILE_N / 2], const Place& at) {
    named_barrier<1, CONSUMERS * WARPGROUP>(); // all stages have been consumed
    constexpr u32 CHUNKS = TILE_N / CHUNK; // per pixel
    const u32 first = warp() * 16;
#pragma unroll
    for (u32 j = 0; j < TILE_N / 8; ++j) {
        for (u32 i = 0; i < 2; ++i) {
            const u32 column = j * 8 + lane() % 4 * 2 + i;
            float* to = &s.staged[first + lane() / 4][column % CLASSES_PER_TILE * CHANNELS + column / CLASSES_PER_TILE];
            to[0] = acc[4 * j + i], to[8 * STRIDE] = acc[4 * j + 2 + i];
        }
    }
    __syncwarp();
#pragma unroll 1
    for (u32 i = lane(); i < 16 * CHUNKS; i += 32) {
        const u32 pixel = first + i / CHUNKS, from = i % CHUNKS * CHUNK;
        const u32 y = at.y + pixel / TILE_W, x = at.x + pixel % TILE_W;
        if (at.image >= a.out.n || y >= a.shape[X].h || x >= a.shape[X].w) continue;
        const u32 cls = at.cls + from / CHANNELS, row = 2 * y + cls / 2, column = 2 * x + cls % 2;
        float chunk[CHUNK];
        load_reals(chunk, &s.staged[pixel][from], CHUNK, true);
        store_pixel(a, (at.image * a.out.h + row) * a.out.w + column, at.channel + from % CHANNELS, chunk);
    }
}

// Computes and stores a block's tile.
DEVICE void conv_transpose_on_tiles(const Args& a, const Maps& maps, Stages& s) {
    const Place at(a);
    const Copies copies(a, s, maps, at);
    const bool is_producer = threadIdx.x == CONSUMERS * WARPGROUP;
    begin_stages(s, maps, copies, is_producer, copies.count());
    if (is_producer) {
        fill_stages(s, copies, copies.count());
    } else if (threadIdx.x < CONSUMERS * WARPGROUP) {
        float acc[TILE_N / 2];
        consume(s, acc, threadIdx.x / WARPGROUP, copies.count());
        store_tile(a, s, acc, at);
    }
}
