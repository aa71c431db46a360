// feed_forward: y = x + g5 (W2 gelu(W0 (LN(x) (1 + g3) + g4) + b0) + b2), g = gammas, on Hopper's tensor cores
//
// Operands as in feed_forward.cu; w0 is [HIDDEN, C], and both weights are bf16.
//
// Launch     one block per TILE_M rows, THREADS threads: two warpgroups with 64 rows each, one of which runs MMAs while the
//            other computes activations. The two blocks of a cluster share the weights by multicast.
// Shared     220 KiB: the rows of x; 5 pipeline stages of weights, 24 KiB each; biases.
// Memory     reads x once and writes y; hidden activations stay on chip. Reads the weights once per 2 TILE_M rows: 0.6 GB
//            from L2 for 512 x 512 pixels, where the MMAs take 0.16 ms. While a block multiplies, it prefetches into L2
//            the rows of the block that will run after it on this SM.
// Numerics   the operands of both GEMMs, hidden activations included, are rounded to bf16; the norm, the accumulation and
//            everything else is f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   STAGES.
// Reference  src/ops/feed_forward.rs
#include "common.cuh"

constexpr u32 C = 192;
constexpr u32 HIDDEN = 768;
constexpr u32 STAGES = 5;
constexpr bool AHEAD = true;
constexpr u32 CLUSTER_X = 2;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 256;
constexpr u32 SHARED = 225280;
#include "feed_forward_tiles.cuh"

struct Block {
    Float4 x[2][VECS][THREADS]; // private to each thread
    Tiles tiles;
};

// Normed and rounded rows as A fragments in registers, so that MMAs read only weights from shared memory; x itself is kept
// in shared memory for the residual.
struct Rows {
    const Float4 (&kept)[2][VECS][THREADS];
    u32 fragments[C / 16][4];

    // LN(x) (1 + g3) + g4 of this thread's vectors of two rows; four lanes share a row.
    DEVICE Rows(const Args& a, Float4 (&keep)[2][VECS][THREADS]) : kept(keep) {
        const float eps = a.number(0), gain = 1.0f + a.tensor(GAMMAS)[3], shift = a.tensor(GAMMAS)[4];
        Float4 x[2][VECS];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 row = upper_row() + half * 8;
#pragma unroll
            for (u32 i = 0; i < VECS; ++i) {
                x[half][i] = row < a.out.rows() ? load_float4(a.real(X) + row * C + first_column(), i * 16) : Float4{};
            }
        }
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float sum = 0.0f, squares = 0.0f;
            for (u32 i = 0; i < VECS; ++i) keep[half][i][threadIdx.x] = x[half][i], sum += x[half][i].sum();
            const float mean = row_sum(sum) / float(C);
            for (u32 i = 0; i < VECS; ++i) {
                for (u32 j = 0; j < VEC; ++j) x[half][i][j] -= mean, squares += x[half][i][j] * x[half][i][j];
            }
            const float scale = gain / sqrtf(row_sum(squares) / float(C) + eps);
#pragma unroll
            for (u32 i = 0; i < VECS; ++i) {
                for (u32 j = 0; j < VEC; ++j) x[half][i][j] = x[half][i][j] * scale + shift;
                const uint2 pairs = row_fragments(x[half][i]);
                fragments[i][half] = pairs.x, fragments[i][2 + half] = pairs.y;
            }
        }
    }

    DEVICE void start(float (&hidden)[TILE_H / 2], u32, u32 i, const u16* weight) const {
#pragma unroll
        for (u32 k = 0; k < TILE_K; k += 16) start_wgmma(hidden, fragments[(i * TILE_K + k) / 16], weight + k, i + k > 0);
    }

    DEVICE Float4 x(u32 half, u32 i) const { return kept[half][i][threadIdx.x]; }
};

KERNEL_TILED(feed_forward_192_sm90a) {
    SHARED_TILES(Block, s);
    feed_forward_on_tiles<Rows>(a, maps, s.tiles, s.x);
}
