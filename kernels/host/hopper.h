// What Hopper adds to the GPU that device.h emulates: mbarriers, TMA copies of tiles, wgmma, clusters of blocks. ../hopper.cuh
// and ../wgmma.cuh use it.
//
// A tile lands when its mbarrier is waited for and no sooner or, in a launch with threads in descending order, at once. An MMA is
// computed when it is waited for and nothing else can run, by each warp for itself, so that warpgroups are as far apart as
// they can be. Its tiles, fragments and accumulators must not change until then. What would hang a GPU (an mbarrier
// that expects other bytes than are copied, or at which too few or too many threads arrive) and what it would read wrongly (a tile
// that is copied over while ldmatrix may still read it) ends the launch with a message.
//
// It sees the arrays of C++, not registers: that a compiler makes one register of two arrays is seen by tools/ptx.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace host {

constexpr unsigned REGISTERS = 64 << 10; // of an SM
constexpr unsigned SYSTEM_SHARED = 1024; // bytes of shared memory that the system has, before a block's own

// A tensor of 16-bit elements and the tile of it that one copy takes, innermost extent first. It stands for what a driver encodes;
// src/backend/cuda/tensor_map.rs
struct alignas(128) TensorMap {
    std::uint64_t address;
    std::uint64_t extent[4]; // of `rank` dimensions
    std::uint64_t stride[3]; // bytes to the next of every dimension but the first
    std::uint32_t tile[4];
    std::uint32_t rank;
    std::uint32_t unused[11];

    // Bytes of a row of the tile, 128 or 64, within which chunks are swizzled.
    unsigned row() const { return tile[0] * 2; }
    unsigned rows() const { return tile[1] * tile[2] * (rank > 3 ? tile[3] : 1); }
};
static_assert(sizeof(TensorMap) == 128, "as large as a driver's");

// Where the swizzle of rows of 128 or 64 bytes puts the 16 bytes at `address`: the bits of the chunk's number within a row are XORed
// with the address bits from 7 on.
inline std::uintptr_t swizzled(std::uintptr_t address, unsigned row) { return address ^ ((address >> 7 & (row / 16 - 1)) << 4); }

// A store to another block's shared memory, on its way until a barrier of the cluster releases it.
struct RemoteStore {
    float* to;
    float value;
};

// A tile on its way to shared memory.
struct TileCopy {
    const TensorMap* map;
    int at[4];
    unsigned char* to;
    unsigned bytes;
};

// An mbarrier.
struct Phase {
    unsigned arrivals, missing; // that complete a phase, and that this phase still lacks
    long expected = 0;          // bytes
    bool visible = false;       // to copies and other blocks
    unsigned number = 0;        // of phases that are complete
    std::vector<TileCopy> flying;
    bool complete() const;
};

// A warp's part of an MMA: 16 of the warpgroup's 64 rows.
struct Wgmma {
    unsigned columns;
    bool add;           // to the accumulators, or to zero
    bool transposed;    // b
    std::uint64_t a, b; // matrix descriptors
    float* acc[32];
    const std::uint32_t* fragments[32];     // of a, or null
    std::vector<std::uint16_t> left, right; // a and b as they were at the start
    std::uint64_t before;                   // fingerprint of the accumulators at the start
};

// A warp's MMAs.
struct Wgmmas {
    bool fenced = false;                         // wgmma.fence has ordered the registers
    unsigned started = 0;                        // ever
    std::vector<Wgmma> open;                     // of the group being made
    std::vector<std::vector<Wgmma>> committed;   // groups in flight
    unsigned registers = 0;                    // that each thread of the warp may use
};

// An address as instructions take it, with this block's rank in the cluster in its upper bits.
unsigned shared_address(const void* at);
void proxy_fence();
void barrier_init(const void* at, unsigned arrivals);
void barriers_show();
void barrier_arrive(const void* at, unsigned rank, long bytes);
void barrier_wait(const void* at, unsigned parity);
// Copies a tile to the same place of every block of the cluster that is in `ranks`.
void tile_copy(void* to, const TensorMap& map, const std::vector<int>& first, const void* barrier, unsigned ranks);

// Called by every lane. `fragments` is the lane's part of a, or null.
void wgmma_start(Wgmma mma, float* acc, unsigned count, const std::uint32_t* fragments);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(unsigned left);

void registers_change(unsigned to, bool more);
unsigned cluster_rank();
// A barrier of all threads of the cluster, which publishes their stores to other blocks if it `releases`.
void cluster_barrier(bool releases);
// The same place in the shared memory of block `rank`.
void* place_in_cluster(unsigned rank, const void* at);

} // namespace host
