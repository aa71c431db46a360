// conv_transpose2d: 4 x 4 kernel, stride 2, on Hopper's tensor cores
//
// Operands as in conv_transpose2d.cu; x and the weight are bf16; their channels and those of out are multiples of 32;
// padding 1.
//
// Launch     conv_transpose2d_4x4_sm90a_weight: one thread per 4 x 4 filter of the weight; then
//            conv_transpose2d_4x4_sm90a: one block per TILE_H x TILE_W pixels of x (y) and CHANNELS channels of a residue
//            class of out (x, classes first), THREADS threads: two consumer warpgroups multiply and one producer warp
//            copies. The two blocks of a cluster share the weight by multicast.
// Shared     201 KiB: 5 pipeline stages of a K tile of 64, 40 KiB each; the epilogue stages accumulators in the same memory.
// Memory     reads the weight and writes it rearranged. Reads x 16 times per CHANNELS channels, from L2, as blocks that run
//            at the same time read the same pixels; the weight once per two tiles of pixels of a class.
// Numerics   the accumulation and the epilogue are f32.
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
constexpr u32 PAIR = 2;        // weight elements per f32 element of scratch memory
constexpr u32 LAID_OUT = 4608; // weight elements rearranged per block
#include "conv_transpose2d_tiles.cuh"

// Rearranges the weight for the GEMM kernel; one thread per 4 x 4 filter.
KERNEL(conv_transpose2d_4x4_sm90a_weight) {
    constexpr u32 KSIZE = 4, FILTER = KSIZE * KSIZE;
    static_assert(LAID_OUT == FILTER * THREADS && PAIR * sizeof(u16) == sizeof(float), "a thread has a filter");
    const u32 depth = a.shape[X].c, i = this_element();
    if (i >= depth * a.out.c) return;
    const u16* from = static_cast<const u16*>(a.operand_at[WEIGHT]) + i * FILTER;
    u16* to = static_cast<u16*>(a.scratch_at);
#pragma unroll
    for (u32 ky = 0; ky < KSIZE; ++ky) {
        for (u32 kx = 0; kx < KSIZE; ++kx) {
            // Along one axis, tap t of class p is kernel element 1 - p + 2 t and reads input pixel y + p - t.
            const u32 tap = ky / 2 * TAPS + kx / 2, cls = (1 - ky % 2) * 2 + 1 - kx % 2;
            const u32 row = tap * depth + i / a.out.c, column = cls * a.out.c + i % a.out.c;
            to[row * CLASSES * a.out.c + column] = from[ky * KSIZE + kx];
        }
    }
}

KERNEL_TILED(conv_transpose2d_4x4_sm90a) {
    SHARED_TILES(Stages, s);
    conv_transpose_on_tiles(a, maps, s);
}
