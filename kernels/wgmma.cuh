// MMAs of a warpgroup (sm_90a): acc += a b, with a 64 x 16 and b 16 x N in bf16, and acc 64 x N in f32.
//
// They run asynchronously: until wgmma_wait, nothing else may touch the accumulators, or write fragments of A in registers
// or tiles in shared memory. Compilers see none of this in the instructions. So fragments are written where they are used, in
// registers of their own: of registers that are copied, a compiler may make one. tools/ptx follows all registers in flight.
//
// Warp w of the warpgroup has rows 16 w to 16 w + 15. With g = lane / 4 and q = lane % 4 * 2, acc[4 j] to acc[4 j + 3] are
// row g, columns 8 j + q and the next, then the same of row g + 8. Fragments of A are as for `multiply` in ptx.cuh.
// Operands in shared memory are tiles as copy_tile leaves them: rows of a, and of b transposed, hold 64 elements of K, of which
// the MMA takes 16, from the pointer on. Where b is TRANSPOSED, each row is one k, 64 columns wide or in strips.
// Like ptx.cuh, each function has a second body for the emulator.
#pragma once
#include "hopper.cuh"
#include "float4.cuh"

// An address in the form of matrix descriptors: in units of 16 bytes, without the bits that say which block of the cluster it is in.
DEVICE u32 tile_address(const void* at) { return (shared_address(at) & 0x3ffff) >> 4; }

// The matrix descriptor of a tile: the address from bit 0 on, the distance from eight rows to the next eight from bit 32 on, in
// units of 16 bytes, and 1 at bit 62 for the 128-byte swizzle. The distance at bit 16 matters only for tiles that are wider
// than the swizzle.
DEVICE unsigned long long tile_of(const void* at) {
    return tile_address(at) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// b in strips of 32 columns: in each, one row of 64 bytes per k, with the 64-byte swizzle.
struct Strips {
    const u16* at;
    u32 apart; // elements from one strip to the next
};

// Their matrix descriptor: the distance of strips from bit 16 on, that of eight k from bit 32 on, 2 at bit 62.
DEVICE unsigned long long tile_of(const Strips& b) {
    constexpr u32 UNIT = 16 / sizeof(u16);
    const unsigned long long apart = b.apart / UNIT;
    return tile_address(b.at) | apart << 16 | 32ull << 32 | 2ull << 62;
}

#ifdef __CUDACC__

// Orders earlier writes of accumulators and fragments before the MMAs that follow.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Makes a group of the MMAs started since the last one.
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most the LEFT latest groups are in flight.
template <u32 LEFT> DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Keeps the compiler from moving reads and writes of accumulators across this line.
template <u32 COUNT> DEVICE void pin(float (&acc)[COUNT]) {
#pragma unroll
    for (u32 i = 0; i < COUNT; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

// Operand numbers of accumulators in an asm text, and the accumulators that they stand for.
#define NAMES_2(t) "%" #t "0, %" #t "1"
#define NAMES_4(t) NAMES_2(t) ", %" #t "2, %" #t "3"
#define NAMES_6(t) NAMES_4(t) ", %" #t "4, %" #t "5"
#define NAMES_8(t) NAMES_6(t) ", %" #t "6, %" #t "7"
#define NAMES_10(t) NAMES_8(t) ", %" #t "8, %" #t "9"
#define NAMES_30 NAMES_10() ", " NAMES_10(1) ", " NAMES_10(2)
#define NAMES_60 NAMES_30 ", " NAMES_10(3) ", " NAMES_10(4) ", " NAMES_10(5)
#define NAMES_90 NAMES_60 ", " NAMES_10(6) ", " NAMES_10(7) ", " NAMES_10(8)
#define ACC_4(i) "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3])
#define ACC_8(i) ACC_4(i), ACC_4(i + 4)
#define ACC_16 ACC_8(0), ACC_8(8)
#define ACC_32 ACC_16, ACC_8(16), ACC_8(24)
#define ACC_40 ACC_32, ACC_8(32)
#define ACC_48 ACC_40, ACC_8(40)
#define ACC_64 ACC_48, ACC_8(48), ACC_8(56)
#define ACC_72 ACC_64, ACC_8(64)
#define ACC_80 ACC_72, ACC_8(72)
#define ACC_96 ACC_80, ACC_8(80), ACC_8(88)
#define ACC_120 ACC_96, ACC_8(96), ACC_8(104), ACC_8(112)
#define ACC_128 ACC_120, ACC_8(120)

// start_wgmma for b of N columns, with a in shared memory, and with a in registers. NAMES are those of N / 2 accumulators, p0 to
// p6 the numbers of the operands behind them. If not `onto`, accumulators begin at zero.
#define WGMMA(N, NAMES, ACC, p0, p1, p2, p3, p4, p5, p6)                                                             \
    template <bool TRANSPOSED = false, class B>                                                                      \
    DEVICE void start_wgmma(float (&acc)[N / 2], const u16* a, B b, bool onto) {                                     \
        asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %" #p2 ", 0;\n"                                         \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, %" #p0 ", %" #p1         \
                     ", onto, 1, 1, 0, %" #p3 ";\n}"                                                                 \
                     : ACC                                                                                           \
                     : "l"(tile_of(a)), "l"(tile_of(b)), "r"(u32(onto)), "n"(int(TRANSPOSED)));                      \
    }                                                                                                                \
    template <bool TRANSPOSED = false>                                                                               \
    DEVICE void start_wgmma(float (&acc)[N / 2], const u32 (&a)[4], const u16* b, bool onto) {                       \
        asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %" #p5 ", 0;\n"                                         \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, {%" #p0 ", %" #p1 ", %" #p2 \
                     ", %" #p3 "}, %" #p4 ", onto, 1, 1, %" #p6 ";\n}"                                               \
                     : ACC                                                                                           \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile_of(b)), "r"(u32(onto)),                  \
                       "n"(int(TRANSPOSED)));                                                                        \
    }
WGMMA(8, NAMES_4(), ACC_4(0), 4, 5, 6, 7, 8, 9, 10)
WGMMA(32, NAMES_10() ", " NAMES_6(1), ACC_16, 16, 17, 18, 19, 20, 21, 22)
WGMMA(64, NAMES_30 ", " NAMES_2(3), ACC_32, 32, 33, 34, 35, 36, 37, 38)
WGMMA(80, NAMES_30 ", " NAMES_10(3), ACC_40, 40, 41, 42, 43, 44, 45, 46)
WGMMA(96, NAMES_30 ", " NAMES_10(3) ", " NAMES_8(4), ACC_48, 48, 49, 50, 51, 52, 53, 54)
WGMMA(128, NAMES_60 ", " NAMES_4(6), ACC_64, 64, 65, 66, 67, 68, 69, 70)
WGMMA(144, NAMES_60 ", " NAMES_10(6) ", " NAMES_2(7), ACC_72, 72, 73, 74, 75, 76, 77, 78)
WGMMA(160, NAMES_60 ", " NAMES_10(6) ", " NAMES_10(7), ACC_80, 80, 81, 82, 83, 84, 85, 86)
WGMMA(192, NAMES_90 ", " NAMES_6(9), ACC_96, 96, 97, 98, 99, 100, 101, 102)
WGMMA(240, NAMES_90 ", " NAMES_10(9) ", " NAMES_10(10) ", " NAMES_10(11), ACC_120, 120, 121, 122, 123, 124, 125, 126)
WGMMA(256, NAMES_90 ", " NAMES_10(9) ", " NAMES_10(10) ", " NAMES_10(11) ", " NAMES_8(12), ACC_128, 128, 129, 130, 131,
      132, 133, 134)

#else

inline void wgmma_fence() { host::wgmma_fence(); }
inline void wgmma_commit() { host::wgmma_commit(); }
template <u32 LEFT> void wgmma_wait() { host::wgmma_wait(LEFT); }
template <u32 COUNT> void pin(float (&)[COUNT]) {}

template <bool TRANSPOSED = false, class B, u32 COUNT>
void start_wgmma(float (&acc)[COUNT], const u16* a, B b, bool onto) {
    host::Wgmma mma{};
    mma.add = onto, mma.transposed = TRANSPOSED, mma.a = tile_of(a), mma.b = tile_of(b);
    host::wgmma_start(mma, acc, COUNT, nullptr);
}
template <bool TRANSPOSED = false, u32 COUNT>
void start_wgmma(float (&acc)[COUNT], const u32 (&a)[4], const u16* b, bool onto) {
    host::Wgmma mma{};
    mma.add = onto, mma.transposed = TRANSPOSED, mma.b = tile_of(b);
    host::wgmma_start(mma, acc, COUNT, a);
}

#endif

// Exchanges accumulators between neighbouring lanes, which have two columns each, so that each gets four of a row. With `acc` at
// element 4 j of the accumulators, j even, or two further for the lower row, lane l gets the columns from
// 8 (j + l % 2) + l % 4 / 2 * 4 on.
DEVICE Float4 row_float4(const float* acc) {
    const bool odd = lane() % 2 != 0;
    const float* next = acc + 4;
    const float first = __shfl_xor_sync(0xffffffffu, odd ? acc[0] : next[0], 1);
    const float second = __shfl_xor_sync(0xffffffffu, odd ? acc[1] : next[1], 1);
    return {{odd ? first : acc[0], odd ? second : acc[1], odd ? next[0] : first, odd ? next[1] : second}};
}

// The inverse, for fragments of A: rounds four such columns and returns this lane's pair in either eight, which is a[0] and a[2]
// for the upper row, a[1] and a[3] for the lower.
DEVICE uint2 row_fragments(const Float4& x) {
    const bool odd = lane() % 2 != 0;
    const u32 first = to_bf16(x[0], x[1]), second = to_bf16(x[2], x[3]);
    const u32 other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
    return make_uint2(odd ? other : first, odd ? second : other);
}
