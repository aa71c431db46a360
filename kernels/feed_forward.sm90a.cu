// feed_forward: y = x + g5 (W2 gelu(W0 (LN(x) (1 + g3) + g4) + b0) + b2), g = gammas, on Hopper's tensor cores
//
// Operands as in feed_forward.cu; w0 is [HIDDEN, C], and both weights are bf16.
//
// Launch     one block for every TILE_M rows, THREADS threads: two groups of four warps with 64 rows each, of which one
//            multiplies while the other finds its hidden values. Two blocks form a cluster and share the weights.
// Shared     224 KiB: the normed rows; 5 slots of weights, 24 KiB each; biases.
// Memory     reads x for the norm and, from L2, to add to; writes y. No hidden value leaves the chip. Reads the weights
//            once for every 2 TILE_M rows: of 256 x 256 pixels 0.6 GB from L2, where the products take 0.16 ms. While a
//            block multiplies, it asks that L2 read the rows of the block that follows it.
// Numerics   the factors of both products are rounded to bf16, hidden values among them; the norm, sums and
//            all the rest in f32.
// Needs      sm_90a: copies of tiles, wgmma, clusters.
// Tunables   SLOTS.
// Reference  src/ops/feed_forward.rs
#include "feed_forward.cuh"
#include "quad.cuh"
#include "wgmma.cuh"

constexpr u32 C = 384;
constexpr u32 HIDDEN = 1536;
constexpr u32 TILE_M = 128;
constexpr u32 TILE_H = 64;  // hidden values of a strip
constexpr u32 TILE_N = 192; // of a slot: terms of the hidden values, or channels of the result
constexpr u32 SLOTS = 5;
constexpr u32 CLUSTER_X = 2;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 256;
constexpr u32 SHARED = 229376;
constexpr u32 GROUP = 128;
constexpr u32 STRIPS = HIDDEN / TILE_H;
constexpr u32 PARTS = 2;                  // slots that a product takes of a strip
constexpr u32 USES = STRIPS * 2 * PARTS;  // of slots: a strip of W0, then of W2
constexpr u32 SLOT = TILE_N * TILE_K;     // elements
constexpr u32 PROCESSORS = 132;           // blocks at once, of an H100
static_assert(TILE_M == 64 * THREADS / GROUP && TILE_H == TILE_K && C == PARTS * TILE_N, "tiles are whole");

struct Tiles {
    alignas(1024) u16 x[C / TILE_K][TILE_M * TILE_K]; // normed
    alignas(1024) u16 weight[SLOTS][SLOT];
    float b0[HIDDEN], b2[C];
    TileBarrier full[SLOTS], empty[SLOTS], turn[2]; // turn: that a group may multiply
};

DEVICE u32 slot_of(u32 use) { return use % SLOTS; }
DEVICE u32 parity_of(u32 use) { return use / SLOTS % 2; }

// Copies a half of what a slot is used for to both blocks, when all have left it. One thread.
DEVICE void ask(Tiles& s, const Maps& maps, u32 use) {
    const u32 strip = use / (2 * PARTS), first = use % PARTS * TILE_N, rank = cluster_rank();
    TileBarrier& full = s.full[slot_of(use)];
    s.empty[slot_of(use)].wait(parity_of(use) ^ 1); // the first time, of a phase before the first
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

// Says to both blocks that this warp is done with a slot, and asks for what comes there next.
DEVICE void leave(Tiles& s, const Maps& maps, u32 use) {
    __syncwarp();
    if (lane() < CLUSTER_X) s.empty[slot_of(use)].arrive_at(lane());
    if (threadIdx.x == GROUP && use + SLOTS < USES) ask(s, maps, use + SLOTS); // the group that is behind
}

// Biases, and LN(x) (1 + g3) + g4 of the block's rows, a warp's 16.
DEVICE void norm_rows(const Args& a, Tiles& s) {
    constexpr u32 QUADS = C / QUAD / 32, AT_ONCE = 4;
    for (u32 i = threadIdx.x; i < HIDDEN; i += THREADS) s.b0[i] = a.tensor(B0)[i];
    for (u32 i = threadIdx.x; i < C; i += THREADS) s.b2[i] = a.tensor(B2)[i];
    const float eps = a.number(0), gain = 1.0f + a.tensor(GAMMAS)[3], shift = a.tensor(GAMMAS)[4];
    for (u32 i = 0; i < 16; i += AT_ONCE) {
        const u32 from = warp() * 16 + i;
        Quad x[AT_ONCE][QUADS];
#pragma unroll
        for (u32 r = 0; r < AT_ONCE; ++r) {
            const u32 row = blockIdx.x * TILE_M + from + r;
            for (u32 q = 0; q < QUADS; ++q) {
                x[r][q] = row < a.out.rows() ? load_quad(a.real(X), row * C + (q * 32 + lane()) * QUAD) : Quad{};
            }
        }
#pragma unroll
        for (u32 r = 0; r < AT_ONCE; ++r) {
            float sum = 0.0f, squares = 0.0f;
            for (u32 q = 0; q < QUADS; ++q) sum += x[r][q].sum();
            const float mean = warp_sum(sum) / float(C);
            for (u32 q = 0; q < QUADS; ++q) {
                for (u32 j = 0; j < QUAD; ++j) x[r][q][j] -= mean, squares += x[r][q][j] * x[r][q][j];
            }
            const float scale = gain / sqrtf(warp_sum(squares) / float(C) + eps);
            for (u32 q = 0; q < QUADS; ++q) {
                for (u32 j = 0; j < QUAD; ++j) x[r][q][j] = x[r][q][j] * scale + shift;
                const u32 k = (q * 32 + lane()) * QUAD;
                u16* to = &s.x[k / TILE_K][tile_place(from + r, k % TILE_K / 8) + k % 8];
                *reinterpret_cast<uint2*>(to) = make_uint2(to_bf16(x[r][q][0], x[r][q][1]), to_bf16(x[r][q][2], x[r][q][3]));
            }
        }
    }
}

// What a group holds of its 64 rows.
struct Strip {
    float sums[PARTS][TILE_N / 2];
    float hidden[TILE_H / 2];
    u32 factors[TILE_H / 16][4]; // the hidden values, rounded

    // Sums begin at the bias.
    DEVICE Strip(const float* bias) {
#pragma unroll
        for (u32 i = 0; i < C / 2; i += 4) {
            const float2 b = *reinterpret_cast<const float2*>(bias + i * 2 + lane() % 4 * 2);
            float* to = &sums[i / (TILE_N / 2)][i % (TILE_N / 2)];
            to[0] = to[2] = b.x, to[1] = to[3] = b.y;
        }
    }

    // Begins to find the hidden values of a strip.
    DEVICE void start_up(Tiles& s, u32 group, u32 use) {
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) {
            s.full[slot_of(use + part)].wait(parity_of(use + part));
            products_fence();
#pragma unroll
            for (u32 i = 0; i < TILE_N / TILE_K; ++i) {
                const u16* x = &s.x[part * (TILE_N / TILE_K) + i][group * 64 * TILE_K];
                const u16* weight = &s.weight[slot_of(use + part)][i * TILE_H * TILE_K];
#pragma unroll
                for (u32 k = 0; k < TILE_K; k += 16) start_product(hidden, x + k, weight + k, part + i + k > 0);
            }
            products_commit();
        }
    }

    // Begins to add what the hidden values contribute to the result.
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

    // Waits for either, and leaves its slots.
    DEVICE void finish(Tiles& s, const Maps& maps, u32 use) {
        products_wait<1>();
        leave(s, maps, use);
        products_wait<0>();
        leave(s, maps, use + 1);
        pin(hidden), pin(sums[0]), pin(sums[1]);
    }

    // From sums to the hidden values.
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

// Asks L2 for the rows of the block that will follow this one.
DEVICE void fetch_ahead(const Args& a) {
    constexpr u32 LINE = 128 / sizeof(float);
    const u32 end = a.out.rows() * C, first = (blockIdx.x + PROCESSORS) * TILE_M * C;
    for (u32 i = threadIdx.x * LINE; i < TILE_M * C && first + i < end; i += THREADS * LINE) fetch_to_l2(a.real(X) + first + i);
}

// The result of a thread's two rows, of which `first` is the upper.
DEVICE void store_rows(const Args& a, const Strip& strip, u32 first) {
    constexpr u32 AT_ONCE = 6;
    const float factor = a.tensor(GAMMAS)[5];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const u32 row = first + half * 8, at = row * C + lane() % 2 * 8 + lane() % 4 / 2 * 4;
        const bool inside = row < a.out.rows();
#pragma unroll
        for (u32 i = 0; i < C / 16; i += AT_ONCE) {
            Quad x[AT_ONCE]; // read ahead: where x is the result, what follows waits for what is stored
#pragma unroll
            for (u32 q = 0; q < AT_ONCE; ++q) x[q] = inside ? load_quad(a.real(X) + at, (i + q) * 16) : Quad{};
#pragma unroll
            for (u32 q = 0; q < AT_ONCE; ++q) {
                const u32 j = (i + q) * 2;
                Quad y = row_quad(&strip.sums[j / (TILE_N / 8)][4 * (j % (TILE_N / 8)) + 2 * half]);
                for (u32 k = 0; k < QUAD; ++k) y[k] = x[q][k] + factor * y[k];
                if (inside) store_quad(a, at + (i + q) * 16, y);
            }
        }
    }
}

KERNEL_TILED(feed_forward_sm90a) {
    SHARED_TILES(Tiles, s);
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < SLOTS; ++i) s.full[i].init(1), s.empty[i].init(THREADS / 32 * CLUSTER_X);
        for (u32 i = 0; i < 2; ++i) s.turn[i].init(GROUP / 32);
        show_barriers();
    }
    cluster_barrier();
    if (threadIdx.x == GROUP) {
        for (u32 use = 0; use < SLOTS; ++use) ask(s, maps, use);
    }
    norm_rows(a, s);
    proxy_fence();
    __syncthreads();

    // One value for the whole warp, as the compiler sees: what follows from it takes no registers of threads.
    const u32 group = __shfl_sync(0xffffffffu, threadIdx.x / GROUP, 0);
    // The second group begins when the first has its hands free; both then take turns.
    const auto my_turn = [&](u32 i) { s.turn[group].wait((i + 1 + group) % 2); };
    const auto your_turn = [&] {
        __syncwarp();
        if (lane() == 0) s.turn[1 - group].arrive();
    };
    Strip strip(s.b2);
    my_turn(0);
    strip.start_up(s, group, 0);
    your_turn();
    strip.finish(s, maps, 0);
    for (u32 i = 1, use = PARTS; i < STRIPS; ++i, use += 2 * PARTS) {
        strip.activate(&s.b0[(i - 1) * TILE_H]);
        my_turn(i);
        strip.start_down(s, use);
        strip.finish(s, maps, use);
        strip.start_up(s, group, use + PARTS);
        your_turn();
        strip.finish(s, maps, use + PARTS);
        if (i == STRIPS * 3 / 4) fetch_ahead(a);
    }
    strip.activate(&s.b0[(STRIPS - 1) * TILE_H]);
    my_turn(STRIPS);
    strip.start_down(s, USES - PARTS);
    your_turn();
    strip.finish(s, maps, USES - PARTS);
    cluster_arrive(); // before the result is stored, which no other block waits for
    store_rows(a, strip, blockIdx.x * TILE_M + group * 64 + warp() % 4 * 16 + lane() / 4);
    cluster_wait(); // until then another block writes to this one's slots and barriers
}
