// What Hopper adds to the GPU that device.h plays: barriers in shared memory that count bytes, copies of
// tiles, products of a group of four warps, clusters of blocks. ../hopper.cuh and ../wgmma.cuh use it.
//
// A tile lands when its barrier is waited for and no sooner; in a launch that runs downwards, at once. A product
// is computed when it is waited for and nothing else can run, by each warp for itself: so groups are as far apart as they
// may be. What it reads and writes must not change until then. What a GPU would hang on (a barrier that expects other bytes
// than are copied, that too few or too many arrive at), or read wrongly (a tile that is copied over while ldmatrix may still
// read it), ends the launch with a message.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace host {

constexpr unsigned REGISTERS = 64 << 10; // of a processor
constexpr unsigned SYSTEM_SHARED = 1024; // bytes of shared memory before a block's own

// A tensor of 16-bit elements and the tile of it that one copy takes, innermost extent first; what a driver encodes.
// src/backend/cuda/tensor_map.rs
struct alignas(128) TensorMap {
    std::uint64_t address;
    std::uint64_t extent[4]; // of `rank` dimensions
    std::uint64_t stride[3]; // bytes to the next of every dimension but the first
    std::uint32_t tile[4];
    std::uint32_t rank;
    std::uint32_t unused[11];

    // Bytes of a tile's row, 128 or 64: what the swizzle works on.
    unsigned row() const { return tile[0] * 2; }
    unsigned rows() const { return tile[1] * tile[2] * (rank > 3 ? tile[3] : 1); }
};
static_assert(sizeof(TensorMap) == 128, "as large as a driver's");

// Where 16 bytes lie that are at `address` of rows of 128 or 64 bytes: the bits that number them within a row, turned over by
// those from 7 on.
inline std::uintptr_t swizzled(std::uintptr_t address, unsigned row) { return address ^ ((address >> 7 & (row / 16 - 1)) << 4); }

// A tile on its way to shared memory.
struct TileCopy {
    const TensorMap* map;
    int at[4];
    unsigned char* to;
    unsigned bytes;
};

// A barrier in shared memory.
struct Phase {
    unsigned arrivals, missing; // that end a phase, and of this phase
    long expected = 0;          // bytes
    bool visible = false;       // to copies and other blocks
    unsigned number = 0;        // of phases that have ended
    std::vector<TileCopy> flying;
    bool complete() const;
};

// A warp's part of a product: 16 rows of the group's 64.
struct Product {
    unsigned columns;
    bool add;               // to what the sums are, or to zero
    bool transposed;        // b
    std::uint64_t a, b;     // where they lie, as the instruction is told
    float* sums[32];
    const std::uint32_t* fragments[32]; // of a, or null
    std::vector<std::uint16_t> left, right; // the factors as they were at the start
    std::uint64_t before;                   // of what the sums were
};

// A warp's products.
struct Products {
    bool fenced = false;                       // registers are as the program says
    unsigned started = 0;                      // ever
    std::vector<Product> open;                 // of the group being made
    std::vector<std::vector<Product>> pending; // committed
    unsigned registers = 0;                    // that each thread of the warp may use
};

// As an instruction takes it: of this block's place in the cluster too.
unsigned shared_address(const void* at);
void proxy_fence();
void barrier_init(const void* at, unsigned arrivals);
void barriers_show();
void barrier_arrive(const void* at, unsigned rank, long bytes);
void barrier_wait(const void* at, unsigned parity);
// Copies a tile to the same place of every block of the cluster that is in `ranks`.
void tile_copy(void* to, const TensorMap& map, const std::vector<int>& first, const void* barrier, unsigned ranks);

// Lane by lane. `fragments` are the lane's part of a, or null.
void product_start(Product product, float* sums, unsigned count, const std::uint32_t* fragments);
void products_fence();
void products_commit();
void products_wait(unsigned left);

void registers_change(unsigned to, bool more);
unsigned cluster_rank();
void cluster_arrive();
void cluster_wait();
// The same place in the shared memory of block `rank`.
void* place_in_cluster(unsigned rank, const void* at);

} // namespace host
