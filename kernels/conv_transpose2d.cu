// conv_transpose2d: every input pixel adds its multiple of the kernel to the output
//
// x       [n, h, w, c] f32 or bf16
// weight  [c, o, kh, kw] any type
// bias    [o] any type, or absent
// out     [n, (h - 1) stride + kh - 2 padding, ..., o] f32 or bf16
//
// Launch     z: remainder of the output row modulo the stride; y: TILE_N channels; x: tiles of TILE_M pixels, for each
//            remainder of the column in turn. Blocks beyond the last tile exit.
// Shared     8.5 KiB.
// Memory     reads the input once per tile of channels and tap of the kernel.
// Numerics   multiplies and accumulates in f32.
// Needs      nothing.
// Tunables   TILE_M, TILE_N, TILE_K, THREADS (gemm.cuh).
// Reference  src/ops/conv_transpose2d.rs
#include "conv.cuh"
#include "gemm.cuh"

KERNEL(conv_transpose2d) {
    SHARED(OperandTiles, s);
    const u32 stride = a.constant[0], column = blockIdx.y * TILE_N, my_column = column + loaded_row();
    // No residue class has more pixels than the first.
    const u32 tiles = div_up(a.out.n * div_up(a.out.h, stride) * div_up(a.out.w, stride), TILE_M);
    for (u32 t = blockIdx.x; t < tiles * stride; t += gridDim.x) {
        const ResidueClass cls(a, blockIdx.z, t / tiles);
        const u32 first = t % tiles * TILE_M, results = cls.results(a), mine = first + loaded_row();
        if (first >= results) continue; // uniform over the block
        const TransposedPatch pixel(a, cls, cls.place(a, mine < results ? mine : 0));
        const TransposedFilter filter(a, cls, my_column);

        float acc[SIDE][SIDE] = {};
        gemm_tile(
            s, acc, cls.depth(a), [&](u32 k) { return mine < results ? patch_element(a.tensor(X), pixel, k) : 0.0f; },
            [&](u32 k) { return my_column < a.out.c ? filter(k) : 0.0f; });

        const Tensor bias = a.tensor(BIAS);
        for (u32 i = 0; i < SIDE; ++i) {
            for (u32 j = 0; j < SIDE; ++j) {
                const u32 r = first + result_row(i), o = column + result_column(j);
                if (r >= results || o >= a.out.c) continue;
                a.store(cls.place(a, r) * a.out.c + o, acc[i][j] + (bias ? bias[o] : 0.0f));
            }
        }
    }
}
