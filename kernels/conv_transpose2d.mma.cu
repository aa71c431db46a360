// conv_transpose2d: every input pixel adds its multiple of the kernel to the output, on tensor cores
//
// Operands as in conv_transpose2d.cu.
//
// Launch     z: remainder of the output row modulo the stride; y: TILE_N channels; x: tiles of TILE_M pixels, for each
//            remainder of the column in turn. Blocks beyond the last tile exit.
// Shared     48 KiB: three pipeline stages of im2col rows and of the weight.
// Memory     reads the input once per tile of channels and tap of the kernel.
// Numerics   x and the weight are rounded to bf16; accumulates in f32.
// Needs      sm_80: ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/conv_transpose2d.rs
#include "conv.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
#include "gemm_mma.cuh"

struct Patches {
    static constexpr bool ASYNC = false;
    const Args& a;
    const ResidueClass& cls;
    u32 first, results, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 mine = first + chunk_row(i);
        load_patch(to, a.tensor(X), TransposedPatch(a, cls, cls.place(a, min_of(mine, results - 1))), k,
                   mine < results ? depth : 0);
    }
};

struct Filters {
    static constexpr bool ASYNC = false;
    const Args& a;
    const ResidueClass& cls;
    u32 first, depth;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 channel = first + chunk_row(i);
        const TransposedFilter filter(a, cls, channel);
        for (u32 j = 0; j < CHUNK; ++j) to[j] = channel < a.out.c && k + j < depth ? filter(k + j) : 0.0f;
    }
};

KERNEL(conv_transpose2d_mma, 2) {
    SHARED(OperandTiles, s);
    const u32 stride = a.constant[0], column = blockIdx.y * TILE_N;
    // No residue class has more pixels than the first.
    const u32 tiles = div_up(a.out.n * div_up(a.out.h, stride) * div_up(a.out.w, stride), TILE_M);
    for (u32 t = blockIdx.x; t < tiles * stride; t += gridDim.x) {
        const ResidueClass cls(a, blockIdx.z, t / tiles);
        const u32 first = t % tiles * TILE_M, results = cls.results(a), depth = cls.depth(a);
        if (first >= results) continue; // uniform over the block
        Accumulator acc;
        gemm_tile(s, acc, depth, Patches{a, cls, first, results, depth}, Filters{a, cls, column, depth});
        acc.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
            if (first + r < results) store_pixel(a, cls.place(a, first + r), column + c, v);
        });
        __syncthreads(); // the next operand tiles overwrite the staged accumulators
    }
}
