// An emulated GPU, for tests: what the kernels use of CUDA, in C++.
//
// Each thread of a block is a fiber. It runs until it waits (for its block or its warp) or ends. Then the next one runs, in
// ascending or descending order, and a warp runs as far as it can before the next one does, so that a missing barrier changes the
// result in one of the two orders. Shared memory is NaN when a block begins, copies land only when they are waited for, and
// what a GPU does not allow or is slow at (a misaligned copy, a bank conflict in ldmatrix, a barrier that not all threads reach)
// ends the launch with a message. The blocks of a cluster run concurrently, others one after the other. What Hopper adds is
// in hopper.h.
//
// It cannot show speed, races within a warp, or the order of memory accesses between blocks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#define __device__
#define __forceinline__ inline
#define KERNEL(...) KERNEL_OF(__VA_ARGS__, 1)
#define KERNEL_OF(name, ...)                                                                                          \
    KERNEL_AS(extern "C" void kernel_##name(Args a, const void*), wait_for_previous_launch(), name##_body, (const Args& a), a)
#define SHARED(Type, name) Type& name = *static_cast<Type*>(host::shared_memory(sizeof(Type)))

struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

#include "hopper.h"

namespace host {

constexpr unsigned LANES = 32, MAX_THREADS = 1024, MAX_BLOCKS = 4, STATIC_SHARED = 48 << 10, MAX_SHARED = 227 << 10;

// What a thread waits for.
struct Condition {
    virtual bool holds() const = 0;
    virtual const char* missing() const = 0; // what to say if it never does
};

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

// A copy that has been asked for and has not landed.
struct Copy {
    void* to;
    const void* from;
    unsigned bytes, room; // zeros fill the room
};

struct Block;

struct Fiber {
    Block* of;
    uint3 thread;
    unsigned index;
    bool waited; // for the previous launch
    bool done;
    void* stopped_at;                       // its stack, while it does not run
    const Condition* waits_for;             // or null
    unsigned exchanges;                     // how often this thread has exchanged values with its warp
    std::vector<Copy> open;                 // copies of the group being made
    std::vector<std::vector<Copy>> groups;  // committed
    std::vector<RemoteStore> remote;        // that no barrier of the cluster has released
    std::vector<const unsigned char*> rows_read; // by ldmatrix since the last proxy fence, in blocks that copy tiles
};

struct Warp {
    Barrier barrier;
    Wgmmas mmas;
    // Two, in turn: who enters the next exchange has left the one before the last.
    alignas(64) unsigned char values[2][LANES][64];
};

// Blocks that run at the same time.
struct Cluster {
    Block* blocks[MAX_BLOCKS];
    unsigned size;
    Barrier barrier;
};

struct Block {
    uint3 index;
    Cluster* cluster;
    unsigned rank;   // within the cluster
    unsigned running; // threads that have not ended
    bool shared_filled;
    Barrier barrier, named_barriers[16];
    std::map<std::size_t, Phase> phases; // of barriers in shared memory, by their place there
    unsigned free_registers;
    Warp warps[MAX_THREADS / LANES];
    Fiber fibers[MAX_THREADS];
    alignas(1024) unsigned char shared[MAX_SHARED];
};

// Memory from one address up to another.
struct Range {
    std::uint64_t begin, end;
};

// Of all blocks of a launch.
struct Launch {
    uint3 grid, size;
    unsigned threads, shared_limit;
    const Range* written; // memory that launches write
    unsigned ranges;
    bool eager;        // whether tiles land at once
    bool idle;         // whether nothing can run but what waits for MMAs
    const char* fault; // what went wrong, if anything did
};

// Of the block and the thread that run on this thread of the host.
extern thread_local Launch launch;
extern thread_local Block* block;
extern thread_local Fiber* fiber;

// Lets other fibers run.
void yield();
// The same until the condition holds.
void wait_for(const Condition& condition);
// Ends the launch with this message; does not return.
[[noreturn]] void fail(const char* message);
// A barrier of so many threads, in two halves or as one: the first says which generation the second waits for to end.
unsigned arrive(Barrier& barrier, unsigned threads);
void pass(const Barrier& barrier, unsigned generation);
inline void wait(Barrier& barrier, unsigned threads) { pass(barrier, arrive(barrier, threads)); }
void* shared_memory(std::size_t bytes);

inline unsigned lane() { return fiber->index % LANES; }
inline Warp& warp() { return block->warps[fiber->index / LANES]; }
inline void wait_warp() {
    const unsigned first = fiber->index / LANES * LANES, left = launch.threads - first;
    wait(warp().barrier, left < LANES ? left : LANES);
}

// Every lane leaves a value; the values of all lanes.
template <class T> const T (&exchange(const T& mine))[LANES] {
    static_assert(sizeof(T[LANES]) <= sizeof(Warp::values[0]), "a value fits its place");
    auto& all = reinterpret_cast<T(&)[LANES]>(warp().values[fiber->exchanges++ % 2]);
    std::memcpy(&all[lane()], &mine, sizeof(T));
    wait_warp();
    return all;
}

// A launch may begin before the one before it is over: until a thread has waited for that, it may read only what no launch writes.
inline void wait_for_launch_before() {
    if (fiber->waited) fail("a second wait for the previous launch");
    fiber->waited = true;
}
inline void must_not_be_in_flight(const void* at) {
    if (fiber->waited) return;
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    for (unsigned i = 0; i < launch.ranges; ++i) {
        const Range& range = launch.written[i];
        if (address >= range.begin && address < range.end) fail("a thread that has not waited for the previous launch");
    }
}

inline void must_be_aligned(const void* at, std::uintptr_t to) {
    if (reinterpret_cast<std::uintptr_t>(at) % to != 0) fail("a copy that is not aligned");
}

// A row of a matrix that ldmatrix reads, in shared memory.
inline const std::uint16_t* matrix_row(const void* at) {
    must_be_aligned(at, 16);
    const auto* byte = static_cast<const unsigned char*>(at);
    if (byte < block->shared || byte >= block->shared + sizeof block->shared) fail("ldmatrix outside of shared memory");
    if (!block->phases.empty()) fiber->rows_read.push_back(byte);
    return static_cast<const std::uint16_t*>(at);
}

// The eight rows of a matrix are read at once, if each is in banks of its own.
inline void must_miss_each_other(const std::uint16_t* const (&rows)[LANES]) {
    for (unsigned matrix = 0; matrix < LANES; matrix += 8) {
        unsigned banks = 0;
        for (unsigned i = 0; i < 8; ++i) banks |= 1u << (reinterpret_cast<std::uintptr_t>(rows[matrix + i]) / 16 % 8);
        if (banks != 0xff) fail("a conflict of banks in ldmatrix");
    }
}

} // namespace host

#define threadIdx (host::fiber->thread)
#define blockIdx (host::block->index)
#define blockDim (host::launch.size)
#define gridDim (host::launch.grid)

inline void __syncthreads() { host::wait(host::block->barrier, host::launch.threads); }
inline void __syncwarp() { host::wait_warp(); }

template <class T> T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return host::exchange(value)[host::lane() ^ mask];
}
template <class T> T __shfl_sync(unsigned, T value, unsigned from) { return host::exchange(value)[from % 32]; }

// Blocks run one after the other.
inline unsigned atomicAdd(unsigned* at, unsigned value) {
    const unsigned before = *at;
    *at += value;
    return before;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline unsigned __ballot_sync(unsigned, bool vote) {
    const auto& votes = host::exchange(unsigned(vote));
    unsigned bits = 0;
    for (unsigned i = 0; i < host::LANES; ++i) bits |= votes[i] << i;
    return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
