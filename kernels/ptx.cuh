// Wrappers for instructions that CUDA C++ cannot express; Hopper's are in hopper.cuh and wgmma.cuh. For the emulator each
// has a second body that does the same to the lanes of a warp; there, asynchronous copies land as late as is allowed.
// Part of common.cuh.
#pragma once

#ifdef __CUDACC__

// An IEEE half as f32, exactly.
DEVICE float from_f16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Waits until the previous launch is complete and its writes are visible. With programmatic dependent launch a kernel may
// start before that; every thread waits, before it reads what launches write and before it writes. GPUs below sm_90 have
// no such launches; there it is a no-op.
DEVICE void wait_for_previous_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Declares this block done. When all blocks are, the next launch may start and run up to its wait. An earlier trigger would
// let all blocks of the next launch crowd onto the first SMs that have room.
DEVICE void allow_next_launch() {
#if __CUDA_ARCH__ >= 900
    __syncthreads();
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The same address. The emulator checks that a thread that has not waited asks only for what no launch writes; for the PTX,
// tests/ptx.rs does.
DEVICE const void* readable(const void* at) { return at; }

DEVICE u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

// Copies 16 bytes to shared memory asynchronously (cp.async), or zeros if not `inside`. Both addresses are multiples of 16.
DEVICE void copy_async(void* shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(inside ? 16 : 0)
                 : "memory");
}

// A hint to load the 128-byte line at this address into L2.
DEVICE void fetch_to_l2(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }

// Commits the copies issued since the last commit as one group.
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's latest groups are pending. Other threads see the data only after a barrier.
template <u32 N> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ldmatrix: four 8 x 8 matrices of 16-bit elements. Lanes 8 i to 8 i + 7 pass the addresses of the 16-byte rows of matrix i.
// Lane l receives elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each.
DEVICE void load_matrices(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed: lane l receives elements 2 (l % 4) and 2 (l % 4) + 1 of column l / 4.
DEVICE void load_matrices_transposed(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// mma.sync m16n8k16: sums += a b per warp, with a 16 x 16 and b 16 x 8 in bf16 and sums 16 x 8 in f32. Fragments of a lane,
// with g = lane / 4 and q = lane % 4 * 2:
// a[0], a[1]: rows g and g + 8, columns q and q + 1; a[2], a[3]: the same rows, columns q + 8 and q + 9.
// b0: rows q and q + 1 of column g; b1: rows q + 8 and q + 9.
// sums[0], sums[1]: row g, columns q and q + 1; sums[2], sums[3]: row g + 8.
DEVICE void mma_bf16(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Increments a counter that the blocks of a launch share, and returns its previous value. The acquire-release order publishes
// what this warp wrote before (with a __syncwarp in between) to blocks that see the increment, and makes what earlier
// blocks published visible to this warp (after a __syncwarp).
DEVICE u32 count_one(u32* counter) {
    u32 before;
    asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

// The value of such a counter, with acquire order.
DEVICE u32 counted(const u32* counter) {
    u32 count;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    return count;
}

// 2^x, to about two units in the last place; 0 for -infinity.
DEVICE float exp2_approx(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

// 1 / x, to one unit in the last place; 0 if that is subnormal.
DEVICE float reciprocal(float x) {
    float value;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

// Two values rounded to bf16, ties to even; the first is in the lower half.
DEVICE u32 to_bf16(float first, float second) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}

#else

inline float from_f16(u16 bits) {
    const u32 sign = u32(bits & 0x8000) << 16, rest = bits & 0x7fff;
    // Subnormals have exponent 0; infinities and NaN have all exponent bits set.
    if (rest < 0x0400) {
        const float small = float(rest) * 5.9604644775390625e-8f; // 2^-24
        return sign ? -small : small;
    }
    return __uint_as_float(sign | ((rest << 13) + (rest < 0x7c00 ? 0x38000000u : 0x70000000u)));
}

inline void wait_for_previous_launch() { host::wait_for_launch_before(); }
inline const void* readable(const void* at) {
    host::must_not_be_in_flight(at);
    return at;
}
inline void allow_next_launch() { __syncthreads(); }

inline float exp2_approx(float x) { return exp2f(x); }
inline float reciprocal(float x) { return 1.0f / x; }

inline void copy_async(void* shared, const void* global, bool inside) {
    host::must_be_aligned(shared, 16);
    host::must_be_aligned(readable(global), 16);
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

inline void mma_bf16(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Operands {
        u32 a[4], b[2];
    };
    const auto& all = host::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
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
