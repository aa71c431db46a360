// Instructions of Hopper (sm_90a): mbarriers, TMA copies of tiles, clusters of blocks. Like ptx.cuh, each function has a second
// body for the emulator; MMAs are in wgmma.cuh.
#pragma once
#include "common.cuh"

// A tensor of 16-bit elements and the tile of it that one TMA copy takes, encoded by the driver: backend/cuda/tensor_map.rs
#ifdef __CUDACC__
struct alignas(128) TensorMap {
    unsigned long long opaque[16];
};
#else
using TensorMap = host::TensorMap;
#endif

// The tensor maps of a launch, in the order of its row in the registry.
struct Maps {
    TensorMap of[2];
};

#ifdef __CUDACC__
// KERNEL with tensor maps as a second argument, for clusters of CLUSTER_X by CLUSTER_Y blocks, one block at a time on an SM.
// The body runs at once: it prepares what it can before it calls wait_for_previous_launch().
#define KERNEL_TILED(name)                                                                                            \
    KERNEL_AS(extern "C" __global__ void __cluster_dims__(CLUSTER_X, CLUSTER_Y, 1) __launch_bounds__(THREADS, 1)      \
                  name(const __grid_constant__ Args a, const __grid_constant__ Maps maps),                            \
              , name##_body, (const Args& a, const Maps& maps), a, maps)
// The same without tensor maps; `blocks` of them must fit on one SM.
#define KERNEL_CLUSTER(name, blocks)                                                                                  \
    KERNEL_AS(extern "C" __global__ void __cluster_dims__(CLUSTER_X, CLUSTER_Y, 1) __launch_bounds__(THREADS, blocks) \
                  name(const __grid_constant__ Args a),                                                               \
              , name##_body, (const Args& a), a)
// The dynamic shared memory of a block, SHARED bytes, aligned for the swizzle; one such line per kernel.
#define SHARED_TILES(Type, name)                                                                                    \
    static_assert(sizeof(Type) <= SHARED, "it has room");                                                           \
    extern __shared__ __align__(1024) unsigned char shared_bytes[];                                                 \
    Type& name = *reinterpret_cast<Type*>(shared_bytes)
#else
#define KERNEL_TILED(name)                                                                                            \
    KERNEL_AS(extern "C" void kernel_##name(Args a, const Maps& maps), , name##_body, (const Args& a, const Maps& maps), a, maps)
#define KERNEL_CLUSTER(name, blocks)                                                                                  \
    KERNEL_AS(extern "C" void kernel_##name(Args a, const void*), , name##_body, (const Args& a), a)
#define SHARED_TILES(Type, name)                                                                                    \
    static_assert(sizeof(Type) <= SHARED, "it has room");                                                           \
    Type& name = *static_cast<Type*>(host::shared_memory(SHARED))
#endif

// A row of a tile has 64 elements: 128 bytes, as many as all banks hold. The swizzle puts the 16-byte chunk c of row r at chunk
// c ^ r % 8, so that the same chunk of eight neighbouring rows lies in different banks.
constexpr u32 TILE_K = 64;
DEVICE u32 tile_place(u32 row, u32 chunk) { return row * TILE_K + (chunk ^ (row & 7)) * 8; }

// Registers that the threads of a block start with if it has an SM to itself. Warpgroups may redistribute them, but one that asks
// for more than others give back waits for ever.
constexpr u32 block_registers(u32 threads) { return 65536 / threads / 8 * 8 * threads; }

// An mbarrier. A phase completes when as many threads have arrived as it counts and as many bytes have landed as they announced.
// Phases are told apart by the parity of their number; the first is 0.
struct alignas(8) TileBarrier {
    unsigned long long bits;

    DEVICE void init(u32 arrivals);
    DEVICE void arrive();
    // Arrives at the same barrier of block `rank` of the cluster. It orders reads of this block, which are over. The other block has
    // nothing to see, so the fence of all of the GPU's memory that release semantics would cost is not needed.
    DEVICE void arrive_at(u32 rank);
    // Announces that so many more bytes will land in this phase, and arrives.
    DEVICE void arrive_expecting(u32 bytes);
    // Waits until the phase of this parity is complete.
    DEVICE void wait(u32 parity);
};

#ifdef __CUDACC__

DEVICE void TileBarrier::init(u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
}

DEVICE void TileBarrier::arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
}

DEVICE void TileBarrier::arrive_at(u32 rank) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}" ::"r"(shared_address(this)), "r"(rank)
                 : "memory");
}

DEVICE void TileBarrier::arrive_expecting(u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
}

DEVICE void TileBarrier::wait(u32 parity) {
    u32 over;
    do {
        asm volatile("{\n"
                     ".reg .pred over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, over;\n"
                     "}"
                     : "=r"(over)
                     : "r"(shared_address(this)), "r"(parity)
                     : "memory");
    } while (!over);
}

// Orders this thread's accesses to shared memory, reads included, before TMA copies to the same place, which use another path
// (the "async proxy"). The thread that issues the copies must learn of it by an mbarrier or a barrier. Reads by MMAs need no fence:
// waiting for the MMAs is enough.
DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Makes mbarriers that this thread has initialised visible to TMA copies and to the cluster; a barrier of threads must follow.
DEVICE void show_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
}

// A hint that copies by this map will follow. Unlike the copies, it reads nothing that a launch writes.
DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// Issues a TMA copy of the map's tile at these coordinates; beyond the tensor it is zero. Its bytes count at the barrier. For
// columns in strips, `channel` is 0 and `image` the number of the strip.
DEVICE void copy_tile(void* to, const TensorMap& map, u32 channel, u32 row, u32 image, TileBarrier& barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
                 "%4}], [%5];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(channel), "r"(row), "r"(image), "r"(shared_address(&barrier))
                 : "memory");
}

// The same by multicast, to all blocks of the cluster whose bit of `ranks` is set: to the same place in each, counted at the same
// barrier of each.
DEVICE void copy_tile_to(u32 ranks, void* to, const TensorMap& map, u32 channel, u32 row, u32 image,
                         TileBarrier& barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(channel), "r"(row), "r"(image), "r"(shared_address(&barrier)), "h"(u16(ranks))
                 : "memory");
}

// The same for a rectangle of pixels, which may lie partly outside of the image.
DEVICE void copy_pixels(void* to, const TensorMap& map, u32 channel, u32 x, u32 y, u32 image, TileBarrier& barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
                 "%4, %5}], [%6];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(channel), "r"(x), "r"(y), "r"(image), "r"(shared_address(&barrier))
                 : "memory");
}
DEVICE void copy_pixels_to(u32 ranks, void* to, const TensorMap& map, u32 channel, u32 x, u32 y, u32 image,
                           TileBarrier& barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(channel), "r"(x), "r"(y), "r"(image), "r"(shared_address(&barrier)), "h"(u16(ranks))
                 : "memory");
}

// This block's rank in its cluster; x is the faster index.
DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Waits until all blocks of the cluster have begun, so that others may write to their shared memory, and mbarriers that were shown
// are visible. The arrival is relaxed, as CUTLASS has it: mbarriers are published by the fence in show_barriers, and there is
// nothing else to publish. With release semantics each warp would wait until all its writes are visible to the whole GPU
// (MEMBAR.ALL.GPU in SASS). Executed by whole warps.
DEVICE void cluster_begin() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// A barrier of all threads of the cluster, executed by whole warps, that does publish what each has written: store_at needs it.
DEVICE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Stores to the same place in block `rank` of the cluster, which must have begun and must not end before. It is read there after a
// cluster_barrier.
DEVICE void store_at(u32 rank, float* place, float value) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "st.shared::cluster.f32 [there], %2;\n"
                 "}" ::"r"(shared_address(place)), "r"(rank), "f"(value)
                 : "memory");
}

// A barrier of COUNT threads, whole warps, that use the same ID, 1 to 15.
template <u32 ID, u32 COUNT> DEVICE void named_barrier() {
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(COUNT) : "memory");
}

// Sets how many registers each thread of the warpgroup may use from here on (setmaxnreg). All four warps execute it.
template <u32 N> DEVICE void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <u32 N> DEVICE void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

#else

inline void TileBarrier::init(u32 arrivals) { host::barrier_init(this, arrivals); }
inline void TileBarrier::arrive() { host::barrier_arrive(this, host::cluster_rank(), 0); }
inline void TileBarrier::arrive_at(u32 rank) { host::barrier_arrive(this, rank, 0); }
inline void TileBarrier::arrive_expecting(u32 bytes) { host::barrier_arrive(this, host::cluster_rank(), long(bytes)); }
inline void TileBarrier::wait(u32 parity) { host::barrier_wait(this, parity); }
inline u32 shared_address(const void* at) { return host::shared_address(at); }
inline void proxy_fence() { host::proxy_fence(); }
inline void show_barriers() { host::barriers_show(); }
inline void prefetch_map(const TensorMap&) {}
inline void copy_tile(void* to, const TensorMap& map, u32 channel, u32 row, u32 image, TileBarrier& barrier) {
    host::tile_copy(to, map, {int(channel), int(row), int(image)}, &barrier, 1u << host::cluster_rank());
}
inline void copy_tile_to(u32 ranks, void* to, const TensorMap& map, u32 channel, u32 row, u32 image,
                         TileBarrier& barrier) {
    host::tile_copy(to, map, {int(channel), int(row), int(image)}, &barrier, ranks);
}
inline void copy_pixels_to(u32 ranks, void* to, const TensorMap& map, u32 channel, u32 x, u32 y, u32 image,
                           TileBarrier& barrier) {
    host::tile_copy(to, map, {int(channel), int(x), int(y), int(image)}, &barrier, ranks);
}
inline void copy_pixels(void* to, const TensorMap& map, u32 channel, u32 x, u32 y, u32 image, TileBarrier& barrier) {
    copy_pixels_to(1u << host::cluster_rank(), to, map, channel, x, y, image, barrier);
}
inline u32 cluster_rank() { return host::cluster_rank(); }
inline void cluster_begin() { host::cluster_barrier(false); }
inline void cluster_barrier() { host::cluster_barrier(true); }
inline void store_at(u32 rank, float* place, float value) {
    host::fiber->remote.push_back({static_cast<float*>(host::place_in_cluster(rank, place)), value});
}
template <u32 ID, u32 COUNT> void named_barrier() { host::wait(host::block->named_barriers[ID], COUNT); }
template <u32 N> void fewer_registers() { host::registers_change(N, false); }
template <u32 N> void more_registers() { host::registers_change(N, true); }

#endif
