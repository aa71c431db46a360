// attention: softmax(Q K^T / sqrt(d)) V for each head; keys and values of the image and of its context; Hopper
//
// Operands as in attention.cu; x and context are bf16, heads have DIM channels.
//
// Launch     one block per QUERIES queries of a head (y) of an image (z), THREADS threads: three warpgroups with 64 queries
//            each, which overlap a tile's softmax with the P V of the tile before.
// Shared     153 KiB: the queries, and STAGES pipeline stages of KEYS keys and values.
// Memory     reads K and V once per QUERIES queries, whole tiles by TMA; scores stay on chip.
// Numerics   The softmax weights are rounded to bf16 for the P V product; scores, softmax and accumulators are f32.
//            Online softmax: the running maximum is subtracted before exp, accumulators are rescaled when it grows.
// Needs      sm_90a: TMA, wgmma.
// Tunables   QUERIES, OVERLAP; KEYS, FEW, SOME, STAGES, MAX_LEAD in attention_tiles.cuh.
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
