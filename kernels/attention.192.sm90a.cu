// attention: softmax(Q K^T / sqrt(d)) V for each head, keys of the image and of its context, on Hopper's tensor cores
//
// Operands as in attention.cu; x and context are bf16, heads have DIM channels.
//
// Launch     one block for every QUERIES queries of a head (y) of an image (z), THREADS threads: three groups of four
//            warps with 64 queries each, which overlap.
// Shared     153 KiB: the queries, and SLOTS tiles of KEYS keys and their values.
// Memory     reads K and V once for every QUERIES queries, by whole tiles; never writes a score.
// Numerics   The weights of the values are rounded to bf16; scores, their softmax and sums are f32. The largest
//            score so far is subtracted before exp, and sums are scaled when it grows.
// Needs      sm_90a: TMA, wgmma.
// Tunables   QUERIES, OVERLAP; KEYS, FEW, SOME, SLOTS, APART in attention_tiles.cuh.
// Reference  src/ops/attention.rs
#include "common.cuh"

constexpr u32 QUERIES = 192;
constexpr u32 COPY = 64; // rows per TMA copy
constexpr u32 CLUSTER_X = 1;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 384;
constexpr u32 SHARED = 156672;
constexpr bool OVERLAP = true;
#include "attention_tiles.cuh"

KERNEL_TILED(attention_192_sm90a) {
    SHARED_TILES(Tiles, s);
    attention_on_tiles(a, maps, s);
}
