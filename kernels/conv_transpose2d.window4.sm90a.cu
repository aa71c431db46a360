// conv_transpose2d: windows of four by four, two pixels apart, on Hopper's tensor cores
//
// Operands as in conv_transpose2d.cu; x and the weight are bf16, their channels and those of out multiples of 32; stride 2,
// padding 1.
//
// Launch     conv_transpose2d_window4_sm90a_weight: one thread for 16 elements of the weight. Then one block for every TILE_H by TILE_W
//            pixels of x (y) and CHANNELS channels of a class of out (x, classes first), THREADS threads: two groups of four
//            warps that multiply, a warp that copies. Two blocks form a cluster and share the weight.
// Shared     201 KiB: 5 pipeline stages of a K tile of 64, 40 KiB each; the epilogue stages accumulators in the same memory.
// Memory     reads the weight and writes it, laid out. Reads x 16 times for every CHANNELS channels, from L2, as blocks that run at the
//            same time have it in common; the weight once for every 2 TILE_H by TILE_W pixels of a class.
// Numerics   sums and all the rest in f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   TILE_H, TILE_W, TILE_N, STAGES.
// Reference  src/ops/conv_transpose2d.rs
#include "common.cuh"

constexpr u32 TILE_H = 8;
constexpr u32 TILE_W = 16;
constexpr u32 TILE_N = 192;
constexpr u32 CHANNELS = 192;
constexpr u32 TAPS = 2;
constexpr u32 STAGES = 5;
constexpr u32 CLUSTER_X = 1;
constexpr u32 CLUSTER_Y = 2;
constexpr u32 THREADS = 288;
constexpr u32 SHARED = 205824;
constexpr u32 PAIR = 2;        // elements of the weight in one of the memory that passes share
constexpr u32 LAID_OUT = 4608; // of the weight, by a block
#include "conv_transpose2d_tiles.cuh"

// The weight as the other pass takes it. One thread for a window.
KERNEL(conv_transpose2d_window4_sm90a_weight) {
    constexpr u32 SIDE = 4, WINDOW = SIDE * SIDE;
    static_assert(LAID_OUT == WINDOW * THREADS && PAIR * sizeof(u16) == sizeof(float), "a thread has a window");
    const u32 depth = a.shape[X].c, i = this_element();
    if (i >= depth * a.out.c) return;
    const u16* from = static_cast<const u16*>(a.operand_at[WEIGHT]) + i * WINDOW;
    u16* to = static_cast<u16*>(a.scratch_at);
#pragma unroll
    for (u32 ky = 0; ky < SIDE; ++ky) {
        for (u32 kx = 0; kx < SIDE; ++kx) {
            // Tap t of class p is line 1 - p + 2 t of the window: it meets pixel y + p - t.
            const u32 tap = ky / 2 * TAPS + kx / 2, set = (1 - ky % 2) * 2 + 1 - kx % 2;
            const u32 row = tap * depth + i / a.out.c, column = set * a.out.c + i % a.out.c;
            to[row * CLASSES * a.out.c + column] = from[ky * SIDE + kx];
        }
    }
}

KERNEL_TILED(conv_transpose2d_window4_sm90a) {
    SHARED_TILES(Stages, s);
    conv_transpose_on_tiles(a, maps, s);
}
