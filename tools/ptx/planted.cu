// Two faults that tools/ptx has to find, or it fails. Both loops are right as C++: fragments of A are copied to registers of their
// own when the MMAs that read these are over.
#include "common.cuh"
#include "wgmma.cuh"

template <class Copy>
__device__ __forceinline__ void multiply(u16* tiles, float* out, u32 count, const Copy& copy) {
    float acc[64] = {};
    u32 fragments[4][4], next[4][4];
    const auto load = [&](u32 i) {
        for (u32 k = 0; k < 4; ++k) {
            load_matrices(next[k], &tiles[tile_place(lane(), (2 * k + i) % 8)]);
            for (u32& pair : next[k]) pair = to_bf16(from_bf16(u16(pair)) * out[i], from_bf16(u16(pair >> 16)) * out[i + 1]);
        }
    };
    const auto start = [&] {
        for (u32 k = 0; k < 4; ++k) {
            for (u32 j = 0; j < 4; ++j) copy(fragments[k][j], next[k][j]);
        }
        wgmma_fence();
        for (u32 k = 0; k < 4; ++k) start_wgmma(acc, fragments[k], tiles + k * 16, true);
        wgmma_commit();
    };
    load(0);
    start();
    for (u32 i = 1; i < count; ++i) {
        load(i);
        wgmma_wait<0>();
        pin(acc);
        start();
    }
    wgmma_wait<0>();
    for (u32 i = 0; i < 64; ++i) out[threadIdx.x * 64 + i] = acc[i];
}

// The compiler renames instead of copying: in PTX already, the registers in flight are written.
extern "C" __global__ void __launch_bounds__(128) renamed_by_compiler(float* out, u32 count) {
    __shared__ __align__(1024) u16 tiles[128 * TILE_K];
    multiply(tiles, out, count, [](u32& to, u32 from) { to = from; });
}

// An explicit move stays in PTX, but assemblers before CUDA 13.3 remove it.
extern "C" __global__ void __launch_bounds__(128) renamed_by_assembler(float* out, u32 count) {
    __shared__ __align__(1024) u16 tiles[128 * TILE_K];
    multiply(tiles, out, count, [](u32& to, u32 from) { asm volatile("mov.b32 %0, %1;" : "=r"(to) : "r"(from) : "memory"); });
}
