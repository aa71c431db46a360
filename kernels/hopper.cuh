// Instructions of Hopper (sm_90a): barriers in shared memory, copies of whole tiles, clusters of blocks. Like
// ptx.cuh, with a body for the host; products are in wgmma.cuh.
#pragma once
#include "common.cuh"

// A tensor of 16-bit elements, and the tile of it that one copy takes. The driver makes it: backend/cuda/tensor_map.rs
#ifdef __CUDACC__
struct alignas(128) TensorMap {
    unsigned long long opaque[16];
};
#else
using TensorMap = host::TensorMap;
#endif

// Those of a launch, as its row of the registry names them.
struct Maps {
    TensorMap of[2];
};

#ifdef __CUDACC__
// KERNEL, given maps as well, for clusters of CLUSTER_X by CLUSTER_Y blocks; one block at a time on a processor.
#define KERNEL_TILED(name)                                                                                            \
    KERNEL_AS(extern "C" __global__ void __cluster_dims__(CLUSTER_X, CLUSTER_Y, 1) __launch_bounds__(THREADS, 1)      \
                  name(const __grid_constant__ Args a, const __grid_constant__ Maps maps),                            \
              name##_body, (const Args& a, const Maps& maps), a, maps)
// KERNEL(name, blocks) for clusters of CLUSTER_X by CLUSTER_Y blocks.
#define KERNEL_CLUSTER(name, blocks)                                                                                  \
    KERNEL_AS(extern "C" __global__ void __cluster_dims__(CLUSTER_X, CLUSTER_Y, 1) __launch_bounds__(THREADS, blocks) \
                  name(const __grid_constant__ Args a),                                                               \
              name##_body, (const Args& a), a)
// The shared memory of a block, SHARED bytes, where the swizzle begins; one such line a kernel.
#define SHARED_TILES(Type, name)                                                                                    \
    static_assert(sizeof(Type) <= SHARED, "it has room");                                                           \
    extern __shared__ __align__(1024) unsigned char shared_bytes[];                                                 \
    Type& name = *reinterpret_cast<Type*>(shared_bytes)
#else
#define KERNEL_TILED(name)                                                                                            \
    KERNEL_AS(extern "C" void kernel_##name(Args a, const Maps& maps), name##_body, (const Args& a, const Maps& maps), a, maps)
#define KERNEL_CLUSTER(name, blocks) KERNEL(name, blocks)
#define SHARED_TILES(Type, name)                                                                                    \
    static_assert(sizeof(Type) <= SHARED, "it has room");                                                           \
    Type& name = *static_cast<Type*>(host::shared_memory(SHARED))
#endif

// A tile's row has 64 terms: 128 bytes, which fill the banks once. The copy puts chunk c of 16 bytes of row
// r at chunk c ^ r % 8, so that the same chunk of eight neighbouring rows lies in different banks.
constexpr u32 TILE_K = 64;
DEVICE u32 tile_place(u32 row, u32 chunk) { return row * TILE_K + (chunk ^ (row & 7)) * 8; }

// Registers that the threads of a block begin with if it has a processor to itself. Groups may share them out anew, but a
// group that wants more than others give back waits for ever.
constexpr u32 block_registers(u32 threads) { return 65536 / threads / 8 * 8 * threads; }

// A barrier in shared memory. A phase ends when as many threads have arrived as it counts, and as many bytes
// have landed as they said; phases are told apart by their number's parity, the first is 0.
struct alignas(8) TileBarrier {
    unsigned long long bits;

    DEVICE void init(u32 arrivals);
    DEVICE void arrive();
    // At the same barrier of block `rank` of the cluster. What this orders are reads, which are over: nothing that the
    // other block would have to see, for which all of the GPU's memory would be fenced.
    DEVICE void arrive_at(u32 rank);
    // Says that so many more bytes will land in this phase, and arrives.
    DEVICE void arrive_expecting(u32 bytes);
    // Until the phase of this parity is over.
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

// Between what this thread does in shared memory, reads too, and copies to the same place, which go another way there.
// Whoever asks for them must then learn of it: an arrival, a barrier. Products need none: waiting for them is enough.
DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Shows barriers that this thread has made to copies and to the cluster; a barrier of threads must follow.
DEVICE void show_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
}

// Asks for the map's tile at these coordinates; zeros beyond the tensor. Its bytes count at the barrier. Of columns in strips,
// `channel` is 0, and `image` the strip.
DEVICE void copy_tile(void* to, const TensorMap& map, u32 channel, u32 row, u32 image, TileBarrier& barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
                 "%4}], [%5];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(channel), "r"(row), "r"(image), "r"(shared_address(&barrier))
                 : "memory");
}

// The same for all blocks of the cluster whose bit of `ranks` is set: to the same place in each, counted at the
// same barrier of each.
DEVICE void copy_tile_to(u32 ranks, void* to, const TensorMap& map, u32 channel, u32 row, u32 image,
                         TileBarrier& barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(channel), "r"(row), "r"(image), "r"(shared_address(&barrier)), "h"(u16(ranks))
                 : "memory");
}

// The same of pixels, which may lie outside of the picture.
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

// This block's number in its cluster; x first.
DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// A barrier of all threads of the cluster in two halves, whole warps each time: what this thread did before the first
// half is done when another is through the second.
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Sets what lies at this place in block `rank` of the cluster. That must have begun, and not end before.
DEVICE void store_at(u32 rank, float* place, float value) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "st.shared::cluster.f32 [there], %2;\n"
                 "}" ::"r"(shared_address(place)), "r"(rank), "f"(value)
                 : "memory");
}

// Waits for `COUNT` threads that name the same ID, 1 to 15; whole warps.
template <u32 ID, u32 COUNT> DEVICE void group_barrier() {
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(COUNT) : "memory");
}

// Sets how many registers each thread of the group may use from here on; all four warps together.
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
inline void cluster_arrive() { host::cluster_arrive(); }
inline void cluster_wait() { host::cluster_wait(); }
inline void store_at(u32 rank, float* place, float value) {
    *static_cast<float*>(host::place_in_cluster(rank, place)) = value;
}
template <u32 ID, u32 COUNT> void group_barrier() { host::wait(host::block->group_barriers[ID], COUNT); }
template <u32 N> void fewer_registers() { host::registers_change(N, false); }
template <u32 N> void more_registers() { host::registers_change(N, true); }

#endif

// Both halves at once.
DEVICE void cluster_barrier() {
    cluster_arrive();
    cluster_wait();
}
