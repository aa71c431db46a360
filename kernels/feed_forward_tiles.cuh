// Feed-forward blocks on Hopper, with hidden activations in registers. The including file defines the channels C and HIDDEN,
// the number of weight pipeline STAGES, and whether the first GEMM of the next strip is issued AHEAD of waiting for
// the second GEMM of this one, which needs separate registers for accumulators and rounded activations. It also defines
// `Rows`, a thread's view of its rows:
//
//     Rows(a, kept)                     loads and norms the rows; `kept` is in shared memory
//     start(hidden, group, i, weight)   issues the MMAs of K tile i of the warpgroup's normed rows
//     x(half, i)                        residual: vector i of the thread's upper or lower row
#pragma once
#include "feed_forward.cuh"
#include "float4.cuh"
#include "wgmma.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_H = 64;  // hidden channels per strip
constexpr u32 TILE_N = 192; // per stage: K elements of the first GEMM, or output channels of the second
constexpr u32 WARPGROUP = 128;
constexpr u32 STRIPS = HIDDEN / TILE_H;
constexpr u32 STAGES_PER_GEMM = C / TILE_N;         // for one strip
constexpr u32 FILLS = STRIPS * 2 * STAGES_PER_GEMM; // of stages: for each strip W0, then W2
constexpr u32 STAGE_ELEMENTS = TILE_N * TILE_K;
constexpr u32 VECS = C / 16; // vectors of a row per thread
static_assert(TILE_M == 64 * THREADS / WARPGROUP && TILE_H == TILE_K, "a warpgroup has 64 rows, a strip is one K tile");
static_assert(C == STAGES_PER_GEMM * TILE_N && STAGES_PER_GEMM <= 2, "tiles are whole");

struct Tiles {
    alignas(1024) u16 weight[STAGES][STAGE_ELEMENTS];
    float b0[HIDDEN], b2[C];
    TileBarrier full[STAGES], empty[STAGES], turn[2]; // turn: the warpgroup may use the tensor cores
};

DEVICE u32 stage_of(u32 fill) { return fill % STAGES; }
DEVICE u32 parity_of(u32 fill) { return fill / STAGES % 2; }

// A thread has this row and the one 8 below; its vectors start at this column, 16 columns apart.
DEVICE u32 upper_row() { return blockIdx.x * TILE_M + warp() * 16 + lane() / 4; }
DEVICE u32 first_column() { return lane() % 2 * 8 + lane() % 4 / 2 * 4; }

// Whether this thread issues the TMA copies; it belongs to the warpgroup that runs behind.
DEVICE bool is_producer() { return threadIdx.x == WARPGROUP; }

// Waits until all warps of both blocks have released the fill that the stage of a later one held before.
DEVICE void wait_empty(Tiles& s, u32 fill) { s.empty[stage_of(fill)].wait(parity_of(fill) ^ 1); }

// Loads this block's half of fill number `fill` and multicasts it to both blocks, whose stage is empty. Called by one thread.
DEVICE void load_stage(Tiles& s, const Maps& maps, u32 fill) {
    const u32 strip = fill / (2 * STAGES_PER_GEMM), first = fill % STAGES_PER_GEMM * TILE_N, rank = cluster_rank();
    TileBarrier& full = s.full[stage_of(fill)];
    full.arrive_expecting(STAGE_ELEMENTS * sizeof(u16));
    u16* to = s.weight[stage_of(fill)];
    if (fill / STAGES_PER_GEMM % 2 == 0) {
        constexpr u32 ROWS = TILE_H / CLUSTER_X;
        for (u32 k = 0; k < TILE_N; k += TILE_K) {
            u16* half = to + k * TILE_H + rank * ROWS * TILE_K;
            copy_tile_to(3, half, maps.of[0], first + k, strip * TILE_H + rank * ROWS, 0, full);
        }
    } else {
        constexpr u32 ROWS = TILE_N / CLUSTER_X;
        copy_tile_to(3, to + rank * ROWS * TILE_K, maps.of[1], strip * TILE_H, first + rank * ROWS, 0, full);
    }
}

// Releases a stage in both blocks for this warp, and issues its next fill.
DEVICE void release(Tiles& s, const Maps& maps, u32 fill) {
    __syncwarp();
    if (lane() < CLUSTER_X) s.empty[stage_of(fill)].arrive_at(lane());
    if (is_producer() && fill + STAGES < FILLS) {
        wait_empty(s, fill + STAGES);
        load_stage(s, maps, fill + STAGES);
    }
}

// A warpgroup's registers for its 64 rows.
struct Strip {
    float acc[STAGES_PER_GEMM][TILE_N / 2];
    float hidden[TILE_H / 2];
    u32 fragments[TILE_H / 16][4]; // hidden activations as A fragments

    // Accumulators start at the bias.
    DEVICE Strip(const float* bias) {
#pragma unroll
        for (u32 i = 0; i < C / 2; i += 4) {
            const float2 b = *reinterpret_cast<const float2*>(bias + i * 2 + lane() % 4 * 2);
            float* to = &acc[i / (TILE_N / 2)][i % (TILE_N / 2)];
            to[0] = to[2] = b.x, to[1] = to[3] = b.y;
        }
    }

    // Issues the first GEMM of a strip: hidden = rows W0^T.
    template <class Rows> DEVICE void start_up(Tiles& s, const Rows& rows, u32 warpgroup, u32 fill) {
        constexpr u32 TILES = TILE_N / TILE_K;
#pragma unroll
        for (u32 step = 0; step < STAGES_PER_GEMM; ++step) {
            s.full[stage_of(fill + step)].wait(parity_of(fill + step));
            wgmma_fence();
#pragma unroll
            for (u32 i = 0; i < TILES; ++i) {
                rows.start(hidden, warpgroup, step * TILES + i, &s.weight[stage_of(fill + step)][i * TILE_H * TILE_K]);
            }
            wgmma_commit();
        }
    }

    // Issues the second GEMM of a strip: sums += hidden W2^T.
    DEVICE void start_down(Tiles& s, u32 fill) {
#pragma unroll
        for (u32 step = 0; step < STAGES_PER_GEMM; ++step) {
            s.full[stage_of(fill + step)].wait(parity_of(fill + step));
            wgmma_fence();
#pragma unroll
            for (u32 k = 0; k < TILE_H / 16; ++k) {
                start_wgmma(acc[step], fragments[k], &s.weight[stage_of(fill + step)][k * 16], true);
            }
            wgmma_commit();
        }
    }

    // Waits for a GEMM after which AFTER more MMA groups have been issued, and releases its stages.
    template <u32 AFTER> DEVICE void finish(Tiles& s, const Maps& maps, u32 fill) {
        if (STAGES_PER_GEMM == 2) {
            wgmma_wait<AFTER + 1>();
            release(s, maps, fill);
        }
        wgmma_wait<AFTER>();
        release(s, maps, fill + STAGES_PER_GEMM - 1);
#pragma unroll
        for (u32 step = 0; step < STAGES_PER_GEMM; ++step) pin(acc[step]);
        if (AFTER == 0) pin(hidden);
    }

    // Adds the bias, applies GELU and rounds to A fragments.
    DEVICE void activate(const float* bias) {
#pragma unroll
        for (u32 j = 0; j < TILE_H / 8; ++j) {
            const float2 b = *reinterpret_cast<const float2*>(bias + j * 8 + lane() % 4 * 2);
            for (u32 half = 0; half < 2; ++half) {
                const float* v = &hidden[4 * j + 2 * half];
                fragments[j / 2][j % 2 * 2 + half] = to_bf16(gelu(v[0] + b.x), gelu(v[1] + b.y));
            }
        }
    }
};

// Prefetches into L2 the rows of the block that will run on this SM after this one, if each SM runs one at a time.
DEVICE void prefetch_rows(const Args& a) {
    constexpr u32 LINE = 128 / sizeof(float);
    const u32 end = a.out.rows() * C, first = (blockIdx.x + a.sms) * TILE_M * C;
    for (u32 i = threadIdx.x * LINE; i < TILE_M * C && first + i < end; i += THREADS * LINE) fetch_to_l2(a.real(X) + first + i);
}

// Stores the result of a thread's two rows.
template <class Rows> DEVICE void store_rows(const Args& a, const Rows& rows, const Strip& strip) {
    constexpr u32 AT_ONCE = 6;
    const float factor = a.tensor(GAMMAS)[5];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const u32 row = upper_row() + half * 8;
        const bool inside = row < a.out.rows();
#pragma unroll
        for (u32 i = 0; i < VECS; i += AT_ONCE) {
            Float4 x[AT_ONCE]; // loaded ahead: if x and the result share memory, later loads must wait for stores
#pragma unroll
            for (u32 q = 0; q < AT_ONCE; ++q) x[q] = rows.x(half, i + q);
#pragma unroll
            for (u32 q = 0; q < AT_ONCE; ++q) {
                const u32 j = (i + q) * 2;
                Float4 y = row_float4(&strip.acc[j / (TILE_N / 8)][4 * (j % (TILE_N / 8)) + 2 * half]);
                for (u32 k = 0; k < VEC; ++k) y[k] = x[q][k] + factor * y[k];
                if (inside) store_float4(a, row * C + first_column() + (i + q) * 16, y);
            }
        }
    }
}

// Computes a block's rows.
template <class Rows, class Kept> DEVICE void feed_forward_on_tiles(const Args& a, const Maps& maps, Tiles& s, Kept& kept) {
    if (threadIdx.x == 0) {
        for (const TensorMap& map : maps.of) prefetch_map(map);
        for (u32 i = 0; i < STAGES; ++i) s.full[i].init(1), s.empty[i].init(THREADS / 32 * CLUSTER_X);
        for (u32 i = 0; i < 2; ++i) s.turn[i].init(WARPGROUP / 32);
        show_barriers();
    }
    cluster_begin();
    if (is_producer()) {
        for (u32 fill = 0; fill < STAGES; ++fill) load_stage(s, maps, fill);
    }
    for (u32 i = threadIdx.x; i < HIDDEN; i += THREADS) s.b0[i] = a.tensor(B0)[i];
    for (u32 i = threadIdx.x; i < C; i += THREADS) s.b2[i] = a.tensor(B2)[i];
    wait_for_previous_launch(); // no launch writes weights
    const Rows rows(a, kept);
    __syncthreads();

    // The shuffle shows the compiler that the value is the same for the whole warp, so what depends on it stays uniform.
    const u32 warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
    // The second warpgroup starts when the first has issued its MMAs; from then on they alternate.
    const auto my_turn = [&](u32 i) { s.turn[warpgroup].wait((i + 1 + warpgroup) % 2); };
    const auto your_turn = [&] {
        __syncwarp();
        if (lane() == 0) s.turn[1 - warpgroup].arrive();
    };
    Strip strip(s.b2);
    my_turn(0);
    strip.start_up(s, rows, warpgroup, 0);
    your_turn();
    strip.finish<0>(s, maps, 0);
    for (u32 i = 1, fill = STAGES_PER_GEMM; i < STRIPS; ++i, fill += 2 * STAGES_PER_GEMM) {
        strip.activate(&s.b0[(i - 1) * TILE_H]);
        my_turn(i);
        strip.start_down(s, fill);
        if (AHEAD) strip.start_up(s, rows, warpgroup, fill + STAGES_PER_GEMM);
        strip.finish<AHEAD ? STAGES_PER_GEMM : 0>(s, maps, fill);
        if (!AHEAD) strip.start_up(s, rows, warpgroup, fill + STAGES_PER_GEMM);
        your_turn();
        strip.finish<0>(s, maps, fill + STAGES_PER_GEMM);
        if (i == STRIPS * 3 / 4) prefetch_rows(a);
    }
    strip.activate(&s.b0[(STRIPS - 1) * TILE_H]);
    my_turn(STRIPS);
    strip.start_down(s, FILLS - STAGES_PER_GEMM);
    your_turn();
    strip.finish<0>(s, maps, FILLS - STAGES_PER_GEMM);
    store_rows(a, rows, strip);
    if (!is_producer()) return;
    // When both blocks have released the last fills, this block's copies have landed in both, and the other one arrives at
    // this one's barriers no more: it may end.
    for (u32 fill = FILLS; fill < FILLS + STAGES; ++fill) wait_empty(s, fill);
}
