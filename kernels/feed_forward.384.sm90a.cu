// feed_forward: y = x + g5 (W2 gelu(W0 (LN(x) (1 + g3) + g4) + b0) + b2), g = gammas, on Hopper's tensor cores
//
// Operands as in feed_forward.cu; w0 is [HIDDEN, C], and both weights are bf16.
//
// Launch     one block per TILE_M rows, THREADS threads: two warpgroups with 64 rows each, one of which runs MMAs while the
//            other computes activations. The two blocks of a cluster share the weights by multicast.
// Shared     224 KiB: the normed rows; 5 pipeline stages of weights, 24 KiB each; biases.
// Memory     reads x for the norm and again, from L2, for the residual; writes y; hidden activations stay on chip. Reads
//            the weights once per 2 TILE_M rows: 0.6 GB from L2 for 256 x 256 pixels, where the MMAs take 0.16 ms. While
//            a block multiplies, it prefetches into L2 the rows of the block that will run after it on this SM.
// Numerics   the operands of both GEMMs, hidden activations included, are rounded to bf16; the norm, the accumulation and
//            everything else is f32.
// Needs      sm_90a: TMA, wgmma, clusters.
// Tunables   STAGES.
// Reference  src/ops/feed_forward.rs
#include "common.cuh"

constexpr u32 C = 384;
constexpr u32 HIDDEN = 1536;
constexpr u32 STAGES = 5;
constexpr bool AHEAD = false;
constexpr u32 CLUSTER_X = 2;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 256;
constexpr u32 SHARED = 229376;
#include "feed_forward_tiles.cuh"

struct Block {
    alignas(1024) u16 x[C / TILE_K][TILE_M * TILE_K]; // normed
    Tiles tiles;
};

// Rows of 384 channels do not fit in registers: MMAs read the normed rows from shared memory, and the residual is read again.
struct Rows {
    const Args& a;
    u16 (&normed)[C / TILE_K][TILE_M * TILE_K];

    // Stores LN(x) (1 + g3) + g4 of this warp's 16 rows.
    DEVICE Rows(const Args& args, u16 (&to)[C / TILE_K][TILE_M * TILE_K]) : a(args), normed(to) {
        constexpr u32 OF_LANE = C / VEC / 32, AT_ONCE = 4;
        const float eps = a.number(0), gain = 1.0f + a.tensor(GAMMAS)[3], shift = a.tensor(GAMMAS)[4];
        for (u32 i = 0; i < 16; i += AT_ONCE) {
            const u32 from = warp() * 16 + i;
            Float4 x[AT_ONCE][OF_LANE];
#pragma unroll
            for (u32 r = 0; r < AT_ONCE; ++r) {
                const u32 row = blockIdx.x * TILE_M + from + r;
                for (u32 q = 0; q < OF_LANE; ++q) {
                    x[r][q] = row < a.out.rows() ? load_float4(a.real(X), row * C + (q * 32 + lane()) * VEC) : Float4{};
                }
            }
#pragma unroll
            for (u32 r = 0; r < AT_ONCE; ++r) {
                float sum = 0.0f, squares = 0.0f;
                for (u32 q = 0; q < OF_LANE; ++q) sum += x[r][q].sum();
                const float mean = warp_sum(sum) / float(C);
                for (u32 q = 0; q < OF_LANE; ++q) {
                    for (u32 j = 0; j < VEC; ++j) x[r][q][j] -= mean, squares += x[r][q][j] * x[r][q][j];
                }
                const float scale = gain / sqrtf(warp_sum(squares) / float(C) + eps);
                for (u32 q = 0; q < OF_LANE; ++q) {
                    for (u32 j = 0; j < VEC; ++j) x[r][q][j] = x[r][q][j] * scale + shift;
                    const u32 k = (q * 32 + lane()) * VEC;
                    u16* at = &normed[k / TILE_K][tile_place(from + r, k % TILE_K / 8) + k % 8];
                    *reinterpret_cast<uint2*>(at) = make_uint2(to_bf16(x[r][q][0], x[r][q][1]), to_bf16(x[r][q][2], x[r][q][3]));
                }
            }
        }
        proxy_fence();
    }

    DEVICE void start(float (&hidden)[TILE_H / 2], u32 warpgroup, u32 i, const u16* weight) const {
        const u16* x = &normed[i][warpgroup * 64 * TILE_K];
#pragma unroll
        for (u32 k = 0; k < TILE_K; k += 16) start_wgmma(hidden, x + k, weight + k, i + k > 0);
    }

    DEVICE Float4 x(u32 half, u32 i) const {
        const u32 row = upper_row() + half * 8;
        return row < a.out.rows() ? load_float4(a.real(X) + row * C + first_column(), i * 16) : Float4{};
    }
};

KERNEL_TILED(feed_forward_384_sm90a) {
    SHARED_TILES(Block, s);
    feed_forward_on_tiles<Rows>(a, maps, s.tiles, s.x);
}
