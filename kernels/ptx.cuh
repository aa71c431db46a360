// The instructions that CUDA C++ has no words for. All PTX of the project is here; compiled for the
// host, each function does the same to the lanes of a warp, and copies land no sooner than they must.
// Part of common.cuh.
#pragma once

#ifdef __CUDACC__

// The value of an IEEE half, exact.
DEVICE float from_f16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Waits until the launch before this one is over and all that it wrote can be seen. A launch may begin sooner where the host
// says so, so this comes before anything else. Compiled for older machines, on which none does, it is nothing.
DEVICE void wait_for_launch_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Says that this block is done: when all are, the next launch may begin, as far as its wait. Not sooner, or the first
// processors to have room would get all of its blocks.
DEVICE void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
    __syncthreads();
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

DEVICE u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

// Asks for 16 bytes to be copied to shared memory; zeros if not `inside`. Both ends lie at multiples of 16.
DEVICE void copy_async(void* shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(inside ? 16 : 0)
                 : "memory");
}

// Asks that L2 read the line of 128 bytes around this place; a hint.
DEVICE void fetch_to_l2(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }

// Makes a group of the copies asked for since the last one.
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the N latest groups of this thread's are under way. A barrier then shows them to others.
template <u32 N> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four matrices of 8 x 8 16-bit elements; lanes 8 i to 8 i + 7 give the rows of matrix i, 16 bytes each.
// Lane l gets elements 2 (l % 4) and the next of row l / 4 of each.
DEVICE void load_matrices(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed: elements 2 (l % 4) and the next of column l / 4.
DEVICE void load_matrices_transposed(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sums += a b for a warp: a 16 x 16, b 16 x 8, bf16; sums 16 x 8, f32. With g = lane / 4 and q = lane % 4 * 2:
// a[0], a[1]: rows g and g + 8, columns q and the next; a[2], a[3]: the same 8 columns on.
// b0, b1: rows q and the next, and 8 rows on, of column g.
// sums: row g, columns q and the next; then row g + 8.
DEVICE void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Adds one to a counter that other blocks count with; what it was before. What this thread's warp wrote before, up to a
// __syncwarp, can be seen by whoever finds it counted; and what those counted before had written, by this warp, from a __syncwarp on.
DEVICE u32 count_one(u32* counter) {
    u32 before;
    asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

// What such a counter is.
DEVICE u32 counted(const u32* counter) {
    u32 count;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    return count;
}

// 2^x, to about two units in the last place; 0 for minus infinity.
DEVICE float power_of_two(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

// 1 / x, to a unit in the last place; 0 where that is below the normal numbers.
DEVICE float reciprocal(float x) {
    float value;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

// Two values rounded to bf16, halves to even, the first in the lower bits.
DEVICE u32 to_bf16(float first, float second) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}

#else

inline float from_f16(u16 bits) {
    const u32 sign = u32(bits & 0x8000) << 16, rest = bits & 0x7fff;
    // Below the normal numbers the exponent field is zero; above them it is full.
    if (rest < 0x0400) {
        const float small = float(rest) * 5.9604644775390625e-8f; // 2^-24
        return sign ? -small : small;
    }
    return __uint_as_float(sign | ((rest << 13) + (rest < 0x7c00 ? 0x38000000u : 0x70000000u)));
}

inline void wait_for_launch_before() { host::wait_for_launch_before(); }
inline void let_next_launch_begin() { __syncthreads(); }

inline float power_of_two(float x) { return exp2f(x); }
inline float reciprocal(float x) { return 1.0f / x; }

inline void copy_async(void* shared, const void* global, bool inside) {
    host::must_be_aligned(shared, 16);
    host::must_be_aligned(global, 16);
    host::must_have_waited();
    host::fiber->open.push_back({shared, global, inside ? 16u : 0u, 16});
}

inline void fetch_to_l2(const void*) {}

inline u32 count_one(u32* counter) { return atomicAdd(counter, 1); }
inline u32 counted(const u32* counter) { return *counter; }

inline void copies_commit() {
    host::fiber->groups.push_back(std::move(host::fiber->open));
    host::fiber->open.clear();
}

template <u32 N> void copies_wait() {
    auto& groups = host::fiber->groups;
    while (groups.size() > N) {
        for (const auto& copy : groups.front()) {
            std::memset(copy.to, 0, copy.room);
            std::memcpy(copy.to, copy.from, copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

inline void load_matrices(u32 (&to)[4], const void* row) {
    const auto& rows = host::exchange(host::matrix_row(row));
    host::must_miss_each_other(rows);
    for (u32 i = 0; i < 4; ++i) std::memcpy(&to[i], rows[8 * i + lane() / 4] + 2 * (lane() % 4), 4);
}

inline void load_matrices_transposed(u32 (&to)[4], const void* row) {
    const auto& rows = host::exchange(host::matrix_row(row));
    host::must_miss_each_other(rows);
    for (u32 i = 0; i < 4; ++i) {
        const u32 r = 8 * i + 2 * (lane() % 4), column = lane() / 4;
        to[i] = rows[r][column] | u32(rows[r + 1][column]) << 16;
    }
}

inline void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Factors {
        u32 a[4], b[2];
    };
    const auto& all = host::exchange(Factors{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    const auto half = [](u32 bits, u32 odd) { return from_bf16(u16(odd ? bits >> 16 : bits)); };
    const u32 g = lane() / 4, q = lane() % 4 * 2;
    for (u32 i = 0; i < 4; ++i) {
        const u32 lower = i / 2, column = q + i % 2;
        for (u32 k = 0; k < 16; ++k) {
            const float x = half(all[4 * g + k % 8 / 2].a[lower + k / 8 * 2], k % 2);
            const float y = half(all[4 * column + k % 8 / 2].b[k / 8], k % 2);
            sums[i] += x * y;
        }
    }
}

inline u32 to_bf16(float first, float second) {
    const auto round = [](float v) {
        const u32 bits = __float_as_uint(v);
        if (v != v) return bits >> 16 | 0x40u; // stays NaN
        return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    };
    return round(first) | round(second) << 16;
}

#endif
