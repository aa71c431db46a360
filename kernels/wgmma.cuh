// Products of a group of four warps (sm_90a): sums += a b, a 64 x 16, b 16 x N, bf16; sums 64 x N, f32.
//
// They run on their own: sums, and factors in registers or shared memory, are theirs until products_wait.
// Warp w of the group has rows 16 w to 16 w + 15. With g = lane / 4 and q = lane % 4 * 2, sums[4 j] to [4 j + 3]
// are row g, columns 8 j + q and the next, then row g + 8; a in registers is as for `multiply` in ptx.cuh.
// Factors in shared memory are tiles as copy_tile leaves them: rows of a and of b transposed have 64 terms, of
// which 16 count, from the pointer on. Where b is called transposed, its rows are the terms, 64 columns wide, or it lies in
// strips.
// Like ptx.cuh, with a body for the host.
#pragma once
#include "hopper.cuh"
#include "float4.cuh"

// An address as the instruction is told of it: in units of 16 bytes, without the block's place in the cluster.
DEVICE u32 tile_address(const void* at) { return (shared_address(at) & 0x3ffff) >> 4; }

// A tile in shared memory as the instruction is told of it (its "matrix descriptor"): from bit 0 the address, from bit 32
// the distance from eight rows to the next eight, in units of 16 bytes; 1 at bit 62 for the swizzle over 128 bytes. Of what
// lies at bit 16 only tiles with more than one swizzle side by side have use.
DEVICE unsigned long long tile_of(const void* at) {
    return tile_address(at) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// Columns of b in strips of 32, 64 bytes wide, term after term; the copy swizzles them over 64 bytes. From a strip to the next
// there are so many elements.
struct Strips {
    const u16* at;
    u32 apart;
};

// The same of them: the distance of strips from bit 16, that of eight terms from bit 32; 2 at bit 62.
DEVICE unsigned long long tile_of(const Strips& b) {
    constexpr u32 UNIT = 16 / sizeof(u16);
    const unsigned long long apart = b.apart / UNIT;
    return tile_address(b.at) | apart << 16 | 32ull << 32 | 2ull << 62;
}

#ifdef __CUDACC__

// After registers of a product were written, before it starts.
DEVICE void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Makes a group of the products started since the last one.
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most the `LEFT` latest groups are under way.
template <u32 LEFT> DEVICE void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Registers of a product are read and written neither before nor after this line because the compiler thinks so.
template <u32 COUNT> DEVICE void pin(float (&sums)[COUNT]) {
#pragma unroll
    for (u32 i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Names of registers in the text of an instruction, and the sums that they stand for.
#define NAMES_2(t) "%" #t "0, %" #t "1"
#define NAMES_4(t) NAMES_2(t) ", %" #t "2, %" #t "3"
#define NAMES_6(t) NAMES_4(t) ", %" #t "4, %" #t "5"
#define NAMES_8(t) NAMES_6(t) ", %" #t "6, %" #t "7"
#define NAMES_10(t) NAMES_8(t) ", %" #t "8, %" #t "9"
#define NAMES_30 NAMES_10() ", " NAMES_10(1) ", " NAMES_10(2)
#define NAMES_60 NAMES_30 ", " NAMES_10(3) ", " NAMES_10(4) ", " NAMES_10(5)
#define NAMES_90 NAMES_60 ", " NAMES_10(6) ", " NAMES_10(7) ", " NAMES_10(8)
#define SUMS_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SUMS_8(i) SUMS_4(i), SUMS_4(i + 4)
#define SUMS_16 SUMS_8(0), SUMS_8(8)
#define SUMS_32 SUMS_16, SUMS_8(16), SUMS_8(24)
#define SUMS_40 SUMS_32, SUMS_8(32)
#define SUMS_48 SUMS_40, SUMS_8(40)
#define SUMS_64 SUMS_48, SUMS_8(48), SUMS_8(56)
#define SUMS_72 SUMS_64, SUMS_8(64)
#define SUMS_80 SUMS_72, SUMS_8(72)
#define SUMS_96 SUMS_80, SUMS_8(80), SUMS_8(88)
#define SUMS_120 SUMS_96, SUMS_8(96), SUMS_8(104), SUMS_8(112)
#define SUMS_128 SUMS_120, SUMS_8(120)

// start_product for b of N columns: a in shared memory, and a in registers. NAMES are those of N / 2 sums, p0 to p6
// the numbers of the operands behind them. If not `onto`, sums begin at zero.
#define PRODUCT(N, NAMES, SUMS, p0, p1, p2, p3, p4, p5, p6)                                                          \
    template <bool TRANSPOSED = false, class B>                                                                      \
    DEVICE void start_product(float (&sums)[N / 2], const u16* a, B b, bool onto) {                                  \
        asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %" #p2 ", 0;\n"                                         \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, %" #p0 ", %" #p1         \
                     ", onto, 1, 1, 0, %" #p3 ";\n}"                                                                 \
                     : SUMS                                                                                          \
                     : "l"(tile_of(a)), "l"(tile_of(b)), "r"(u32(onto)), "n"(int(TRANSPOSED)));                      \
    }                                                                                                                \
    template <bool TRANSPOSED = false>                                                                               \
    DEVICE void start_product(float (&sums)[N / 2], const u32 (&a)[4], const u16* b, bool onto) {                    \
        asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %" #p5 ", 0;\n"                                         \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, {%" #p0 ", %" #p1 ", %" #p2 \
                     ", %" #p3 "}, %" #p4 ", onto, 1, 1, %" #p6 ";\n}"                                               \
                     : SUMS                                                                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile_of(b)), "r"(u32(onto)),                  \
                       "n"(int(TRANSPOSED)));                                                                        \
    }
PRODUCT(8, NAMES_4(), SUMS_4(0), 4, 5, 6, 7, 8, 9, 10)
PRODUCT(32, NAMES_10() ", " NAMES_6(1), SUMS_16, 16, 17, 18, 19, 20, 21, 22)
PRODUCT(64, NAMES_30 ", " NAMES_2(3), SUMS_32, 32, 33, 34, 35, 36, 37, 38)
PRODUCT(80, NAMES_30 ", " NAMES_10(3), SUMS_40, 40, 41, 42, 43, 44, 45, 46)
PRODUCT(96, NAMES_30 ", " NAMES_10(3) ", " NAMES_8(4), SUMS_48, 48, 49, 50, 51, 52, 53, 54)
PRODUCT(128, NAMES_60 ", " NAMES_4(6), SUMS_64, 64, 65, 66, 67, 68, 69, 70)
PRODUCT(144, NAMES_60 ", " NAMES_10(6) ", " NAMES_2(7), SUMS_72, 72, 73, 74, 75, 76, 77, 78)
PRODUCT(160, NAMES_60 ", " NAMES_10(6) ", " NAMES_10(7), SUMS_80, 80, 81, 82, 83, 84, 85, 86)
PRODUCT(192, NAMES_90 ", " NAMES_6(9), SUMS_96, 96, 97, 98, 99, 100, 101, 102)
PRODUCT(240, NAMES_90 ", " NAMES_10(9) ", " NAMES_10(10) ", " NAMES_10(11), SUMS_120, 120, 121, 122, 123, 124, 125, 126)
PRODUCT(256, NAMES_90 ", " NAMES_10(9) ", " NAMES_10(10) ", " NAMES_10(11) ", " NAMES_8(12), SUMS_128, 128, 129, 130, 131,
        132, 133, 134)

#else

inline void products_fence() { host::products_fence(); }
inline void products_commit() { host::products_commit(); }
template <u32 LEFT> void products_wait() { host::products_wait(LEFT); }
template <u32 COUNT> void pin(float (&)[COUNT]) {}

template <bool TRANSPOSED = false, class B, u32 COUNT>
void start_product(float (&sums)[COUNT], const u16* a, B b, bool onto) {
    host::Product product{};
    product.add = onto, product.transposed = TRANSPOSED, product.a = tile_of(a), product.b = tile_of(b);
    host::product_start(product, sums, COUNT, nullptr);
}
template <bool TRANSPOSED = false, u32 COUNT>
void start_product(float (&sums)[COUNT], const u32 (&a)[4], const u16* b, bool onto) {
    host::Product product{};
    product.add = onto, product.transposed = TRANSPOSED, product.b = tile_of(b);
    host::product_start(product, sums, COUNT, a);
}

#endif

// Four columns of a row of sums, of which neighbouring lanes have two each: j and j + 1, j even, are products of eight columns
// side by side, and from &sums[4 j] on, or two further for the lower row, lane l gets those from column
// 8 (j + l % 2) + l % 4 / 2 * 4 on.
DEVICE Float4 row_float4(const float* sums) {
    const bool odd = lane() % 2 != 0;
    const float* next = sums + 4;
    const float first = __shfl_xor_sync(0xffffffffu, odd ? sums[0] : next[0], 1);
    const float second = __shfl_xor_sync(0xffffffffu, odd ? sums[1] : next[1], 1);
    return {{odd ? first : sums[0], odd ? second : sums[1], odd ? next[0] : first, odd ? next[1] : second}};
}

// The other way, for a factor in registers: of such four columns, rounded, this lane's two of either eight. They are a[0] and
// a[2] of the upper row, a[1] and a[3] of the lower.
DEVICE uint2 row_factors(const Float4& x) {
    const bool odd = lane() % 2 != 0;
    const u32 first = to_bf16(x[0], x[1]), second = to_bf16(x[2], x[3]);
    const u32 other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
    return make_uint2(odd ? other : first, odd ? second : other);
}
