// Feed-forward blocks on Hopper, with hidden activations in registers. The including file defines the channels C and HIDDEN,
// the number of weight pipeline stages (SLOTS), and whether the first GEMM of the next strip is issued AHEAD of waiting for
// the second GEMM of this one, which needs separate registers for accumulators and rounded activations. It also defines
// `Rows`, a thread's view of its rows:
//
//     Rows(a, kept)                     loads and norms the rows; `kept` is in shared memory
//     start(hidden, group, i, weight)   issues the MMAs of K tile i of the warpgroup's normed rows
//     x(half, i)                        residual: vector i of the thread's upper or lower row
#pragma once
#include "feed_forward.cuh"
#include "quad.cuh"
#include "wgmma.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_H = 64;  // hidden channels per strip
constexpr u32 TILE_N = 192; // per slot: K elements of the first GEMM, or output channels of the second
constexpr u32 GROUP = 128;
constexpr u32 STRIPS = HIDDEN / TILE_H;
constexpr u32 PARTS = C / TILE_N;        // slots per GEMM of a strip
constexpr u32 USES = STRIPS * 2 * PARTS; // number of slot fills: for each strip W0, then W2
constexpr u32 SLOT = TILE_N * TILE_K;    // elements
constexpr u32 QUADS = C / 16;            // vectors of a row per thread
constexpr u32 PROCESSORS = 132;          // SMs of an H100, one block on each
static_assert(TILE_M == 64 * THREADS / GROUP && TILE_H == TILE_K && C == PARTS * TILE_N && PARTS <= 2, "tiles are whole");

struct Tiles {
    alignas(1024) u16 weight[SLOTS][SLOT];
    float b0[HIDDEN], b2[C];
    TileBarrier full[SLOTS], empty[SLOTS], turn[2]; // turn: the warpgroup may use the tensor cores
};

DEVICE u32 slot_of(u32 use) { return use % SLOTS; }
DEVICE u32 parity_of(u32 use) { return use / SLOTS % 2; }

// A thread has this row and the one 8 below; its vectors start at this column, 16 columns apart.
DEVICE u32 upper_row() { return blockIdx.x * TILE_M + warp() * 16 + lane() / 4; }
DEVICE u32 first_column() { return lane() % 2 * 8 + lane() % 4 / 2 * 4; }

// Loads this block's half of slot fill `use` and multicasts it to both blocks, once all warps have released the slot. Called
// by one thread.
DEVICE void ask(Tiles& s, const Maps& maps, u32 use) {
    const u32 strip = use / (2 * PARTS), first = use % PARTS * TILE_N, rank = cluster_rank();
    TileBarrier& full = s.full[slot_of(use)];
    s.empty[slot_of(use)].wait(parity_of(use) ^ 1); // the first wait is for the phase before the first, which counts as over
    full.arrive_expecting(SLOT * sizeof(u16));
    u16* to = s.weight[slot_of(use)];
    if (use / PARTS % 2 == 0) {
        constexpr u32 ROWS = TILE_H / CLUSTER_X;
        for (u32 k = 0; k < TILE_N; k += TILE_K) {
            u16* part = to + k * TILE_H + rank * ROWS * TILE_K;
            copy_tile_to(3, part, maps.of[0], first + k, strip * TILE_H + rank * ROWS, 0, full);
        }
    } else {
        constexpr u32 ROWS = TILE_N / CLUSTER_X;
        copy_tile_to(3, to + rank * ROWS * TILE_K, maps.of[1], strip * TILE_H, first + rank * ROWS, 0, full);
    }
}

// Releases a slot in both blocks for this warp, and issues its next fill.
DEVICE void leave(Tiles& s, const Maps& maps, u32 use) {
    __syncwarp();
    if (lane() < CLUSTER_X) s.empty[slot_of(use)].arrive_at(lane());
    if (threadIdx.x == GROUP && use + SLOTS < USES) ask(s, maps, use + SLOTS); // a thread of the warpgroup that runs behind
}

// A warpgroup's registers for its 64 rows.
struct Strip {
    float sums[PARTS][TILE_N / 2];
    float hidden[TILE_H / 2];
    u32 factors[TILE_H / 16][4]; // hidden activations as A fragments

    // Accumulators start at the bias.
    DEVICE Strip(const float* bias) {
#pragma unroll
        for (u32 i = 0; i < C / 2; i += 4) {
            const float2 b = *reinterpret_cast<const float2*>(bias + i * 2 + lane() % 4 * 2);
            float* to = &sums[i / (TILE_N / 2)][i % (TILE_N / 2)];
            to[0] = to[2] = b.x, to[1] = to[3] = b.y;
        }
    }

    // Issues the first GEMM of a strip: hidden = rows W0^T.
    template <class Rows> DEVICE void start_up(Tiles& s, const Rows& rows, u32 group, u32 use) {
        constexpr u32 TILES = TILE_N / TILE_K;
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) {
            s.full[slot_of(use + part)].wait(parity_of(use + part));
            products_fence();
#pragma unroll
            for (u32 i = 0; i < TILES; ++i) {
                rows.start(hidden, group, part * TILES + i, &s.weight[slot_of(use + part)][i * TILE_H * TILE_K]);
            }
            products_commit();
        }
    }

    // Issues the second GEMM of a strip: sums += hidden W2^T.
    DEVICE void start_down(Tiles& s, u32 use) {
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) {
            s.full[slot_of(use + part)].wait(parity_of(use + part));
            products_fence();
#pragma unroll
            for (u32 k = 0; k < TILE_H / 16; ++k) {
                start_product(sums[part], factors[k], &s.weight[slot_of(use + part)][k * 16], true);
            }
            products_commit();
        }
    }

    // Waits for a GEMM after which AFTER more MMA groups have been issued, and releases its slots.
    template <u32 AFTER> DEVICE void finish(Tiles& s, const Maps& maps, u32 use) {
        if (PARTS == 2) {
            products_wait<AFTER + 1>();
            leave(s, maps, use);
        }
        products_wait<AFTER>();
        leave(s, maps, use + PARTS - 1);
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) pin(sums[part]);
        if (AFTER == 0) pin(hidden);
    }

    // Adds the bias, applies GELU and rounds to A fragments.
    DEVICE void activate(const float* bias) {
#pragma unroll
        for (u32 j = 0; j < TILE_H / 8; ++j) {
            const float2 b = *reinterpret_cast<const float2*>(bias + j * 8 + lane() % 4 * 2);
            for (u32 half = 0; half < 2; ++half) {
                const float* v = &hidden[4 * j + 2 * half];
                factors[j / 2][j % 2 * 2 + half] = to_bf16(gelu(v[0] + b.x), gelu(v[1] + b.y));
            }
        }
    }
};

// Prefetches into L2 the rows of the block that will run on this SM after this one.
DEVICE void fetch_ahead(const Args& a) {
    constexpr u32 LINE = 128 / sizeof(float);
    const u32 end = a.out.rows() * C, first = (blockIdx.x + PROCESSORS) * TILE_M * C;
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
        for (u32 i = 0; i < QUADS; i += AT_ONCE) {
            Quad x[AT_ONCE]; // loaded ahead: if x and the result share memory, later loads must wait for stores
#pragma unroll
            for (u32 q = 0; q < AT_ONCE; ++q) x[q] = rows.x(half, i + q);
#pragma unroll
            for (u32 q = 0; q < AT_ONCE; ++q) {
                const u32 j = (i + q) * 2;
                Quad y = row_quad(&strip.sums[j / (TILE_N / 8)][4 * (j % (TILE_N / 8)) + 2 * half]);
                for (u32 k = 0; k < QUAD; ++k) y[k] = x[q][k] + factor * y[k];
                if (inside) store_quad(a, row * C + first_column() + (i + q) * 16, y);
            }
        }
    }
}

// Computes a block's rows.
template <class Rows, class Kept> DEVICE void feed_forward_on_tiles(const Args& a, const Maps& maps, Tiles& s, Kept& kept) {
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < SLOTS; ++i) s.full[i].init(1), s.empty[i].init(THREADS / 32 * CLUSTER_X);
        for (u32 i = 0; i < 2; ++i) s.turn[i].init(GROUP / 32);
        show_barriers();
    }
    cluster_barrier();
    if (threadIdx.x == GROUP) {
        for (u32 use = 0; use < SLOTS; ++use) ask(s, maps, use);
    }
    for (u32 i = threadIdx.x; i < HIDDEN; i += THREADS) s.b0[i] = a.tensor(B0)[i];
    for (u32 i = threadIdx.x; i < C; i += THREADS) s.b2[i] = a.tensor(B2)[i];
    const Rows rows(a, kept);
    __syncthreads();

    // The shuffle shows the compiler that the value is the same for the whole warp, so what depends on it stays uniform.
    const u32 group = __shfl_sync(0xffffffffu, threadIdx.x / GROUP, 0);
    // The second warpgroup starts when the first has issued its MMAs; from then on they alternate.
    const auto my_turn = [&](u32 i) { s.turn[group].wait((i + 1 + group) % 2); };
    const auto your_turn = [&] {
        __syncwarp();
        if (lane() == 0) s.turn[1 - group].arrive();
    };
    Strip strip(s.b2);
    my_turn(0);
    strip.start_up(s, rows, group, 0);
    your_turn();
    strip.finish<0>(s, maps, 0);
    for (u32 i = 1, use = PARTS; i < STRIPS; ++i, use += 2 * PARTS) {
        strip.activate(&s.b0[(i - 1) * TILE_H]);
        my_turn(i);
        strip.start_down(s, use);
        if (AHEAD) strip.start_up(s, rows, group, use + PARTS);
        strip.finish<AHEAD ? PARTS : 0>(s, maps, use);
        if (!AHEAD) strip.start_up(s, rows, group, use + PARTS);
        your_turn();
        strip.finish<0>(s, maps, use + PARTS);
        if (i == STRIPS * 3 / 4) fetch_ahead(a);
    }
    strip.activate(&s.b0[(STRIPS - 1) * TILE_H]);
    my_turn(STRIPS);
    strip.start_down(s, USES - PARTS);
    your_turn();
    strip.finish<0>(s, maps, USES - PARTS);
    cluster_arrive(); // no other block waits for the stores below
    store_rows(a, rows, strip);
    cluster_wait(); // until then the other block writes to this one's slots and barriers
}
