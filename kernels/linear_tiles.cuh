// A linear layer on Hopper's tensor cores. The including file says how large TILE_M and TILE_N are, how many
// STAGES there are, and how many blocks along rows (CLUSTER_X) and channels (CLUSTER_Y) form a cluster.
//
// One warp copies tiles of x and of the weight, STAGES ahead; groups of four warps multiply them, 64 rows each.
// Blocks of a cluster along rows use the same tile of the weight, those along channels the same of x: each
// copies a part of it, to all of them. So a stage is free when the consumers of the whole cluster have left it.
#pragma once
#include "linear.cuh"
#include "grn_squares.cuh"
#include "stages.cuh"

constexpr u32 GROUP = 128; // threads of a warp group
constexpr u32 CONSUMERS = TILE_M / 64;
constexpr u32 STEPS = TILE_K / 16;        // products of a stage
constexpr u32 STRIDE = TILE_N + 8;        // of staged sums: four rows of pairs lie in different banks
constexpr u32 CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : 240; // of 64 Ki, with those of the warps that copy
constexpr u32 PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : 24;
constexpr u32 STAGE_BYTES = (TILE_M + TILE_N) * TILE_K * sizeof(u16);
static_assert(THREADS == GROUP * (CONSUMERS + 1) && TILE_M % 64 == 0, "a group has 64 rows, another one copies");
static_assert(CONSUMERS == 2 || CONSUMERS == 3, "registers are shared out for so many");
static_assert(GROUP * (CONSUMERS * CONSUMER_REGISTERS + PRODUCER_REGISTERS) <= block_registers(THREADS), "there are so many");
static_assert(TILE_M / CLUSTER_Y % 8 == 0 && TILE_N / CLUSTER_X % 8 == 0, "parts begin where the swizzle does");

struct Stages {
    union {
        struct {
            alignas(1024) u16 x[STAGES][TILE_M * TILE_K];
            alignas(1024) u16 weight[STAGES][TILE_N * TILE_K];
        };
        float sums[TILE_M][STRIDE]; // when all has been multiplied
    };
    TileBarrier full[STAGES], empty[STAGES];
};

// Copies `count` stages, from terms `first` on. One thread.
DEVICE void produce(Stages& s, const Maps& maps, u32 first, u32 count) {
    constexpr u32 ROWS = TILE_M / CLUSTER_Y, COLUMNS = TILE_N / CLUSTER_X; // of this block's parts
    const u32 rank = cluster_rank(), x = rank % CLUSTER_X, y = rank / CLUSTER_X;
    const u32 row = blockIdx.x * TILE_M + y * ROWS, column = blockIdx.y * TILE_N + x * COLUMNS;
    Turn turn;
    for (u32 i = 0; i < count; ++i, turn.next()) {
        const u32 k = first + i * TILE_K;
        TileBarrier& full = s.full[turn.stage];
        s.empty[turn.stage].wait(turn.parity ^ 1); // the first time, of a phase before the first
        full.arrive_expecting(STAGE_BYTES);
        u16* to_x = &s.x[turn.stage][y * ROWS * TILE_K];
        u16* to_weight = &s.weight[turn.stage][x * COLUMNS * TILE_K];
        if constexpr (CLUSTER_Y > 1) {
            copy_tile_to((1u | 1u << CLUSTER_X) << x, to_x, maps.of[X], k, row, 0, full);
        } else {
            copy_tile(to_x, maps.of[X], k, row, 0, full);
        }
        if constexpr (CLUSTER_X > 1) {
            copy_tile_to(3u << y * CLUSTER_X, to_weight, maps.of[WEIGHT], k, column, 0, full);
        } else {
            copy_tile(to_weight, maps.of[WEIGHT], k, column, 0, full);
        }
    }
}

// sums = x w^T over `count` stages, at least one, x as it lies.
DEVICE void consume(Stages& s, float (&sums)[TILE_N / 2], u32 group, u32 count) {
    const auto start = [&](u32 stage, bool onto) {
        const u16* x = &s.x[stage][group * 64 * TILE_K];
        const u16* weight = s.weight[stage];
        products_fence();
#pragma unroll
        for (u32 k = 0; k < STEPS; ++k) start_product(sums, x + k * 16, weight + k * 16, onto || k > 0);
        products_commit();
    };
    multiply_stages(s, count, start);
}

// Eight terms, two at a time, of two rows of x: what `multiply` in ptx.cuh takes for 16 terms, times scale, plus shift.
struct Ride {
    const float* scale[2]; // of the images of this thread's two rows
    Tensor shift;
    u32 depth;

    DEVICE Ride(const Args& a, u32 row) : shift(a.tensor(SHIFT)), depth(a.shape[X].c) {
        // Rows past the last are multiplied, but not stored.
        for (u32 i = 0; i < 2; ++i) {
            scale[i] = a.real(SCALE) + min_of(row + 8 * i, a.out.rows() - 1) / a.out.tokens() * depth;
        }
    }
    // x holds 16 terms, from `term` on.
    DEVICE void apply_to(u32 (&x)[4], u32 term) const {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            // Past the last term the weight is zero, and anything finite will do.
            const u32 t = min_of(term + half * 8 + lane() % 4 * 2, depth - 2);
            const float more[2] = {shift ? shift[t] : 0.0f, shift ? shift[t + 1] : 0.0f};
#pragma unroll
            for (u32 r = 0; r < 2; ++r) {
                const float2 by = *reinterpret_cast<const float2*>(scale[r] + t);
                u32& pair = x[half * 2 + r];
                pair = to_bf16(from_bf16(u16(pair)) * by.x + more[0], from_bf16(u16(pair >> 16)) * by.y + more[1]);
            }
        }
    }
};

// The same of x * scale + shift, which goes through registers: the next stage's while one is multiplied.
DEVICE void consume_scaled(const Args& a, Stages& s, float (&sums)[TILE_N / 2], u32 group, u32 first, u32 count) {
    const Ride ride(a, blockIdx.x * TILE_M + group * 64 + warp() % 4 * 16 + lane() / 4);
    u32 factors[STEPS][4], next[STEPS][4];
    const auto load = [&](u32 stage, u32 term) {
        const u32 row = group * 64 + warp() % 4 * 16 + lane() % 16;
#pragma unroll
        for (u32 k = 0; k < STEPS; ++k) {
            load_matrices(next[k], &s.x[stage][tile_place(row, 2 * k + lane() / 16)]);
            ride.apply_to(next[k], term + k * 16);
        }
        proxy_fence(); // before the stage is left
    };
    const auto start = [&](u32 stage, bool onto) {
#pragma unroll
        for (u32 k = 0; k < STEPS; ++k) {
            for (u32 j = 0; j < 4; ++j) factors[k][j] = next[k][j];
        }
        products_fence();
#pragma unroll
        for (u32 k = 0; k < STEPS; ++k) start_product(sums, factors[k], s.weight[stage] + k * 16, onto || k > 0);
        products_commit();
    };
    Turn turn;
    s.full[turn.stage].wait(turn.parity);
    load(turn.stage, first);
    start(turn.stage, false);
    for (u32 i = 1; i < count; ++i) {
        const u32 before = turn.stage;
        turn.next();
        s.full[turn.stage].wait(turn.parity);
        load(turn.stage, first + i * TILE_K);
        products_wait<0>(); // so that factors may change
        leave(s, before);
        start(turn.stage, true);
    }
    products_wait<0>();
}

// Adds up what the warps of a group have left in their first rows.
DEVICE void leave_squares(const Args& a, const Stages& s, u32 group) {
    group_barrier<1, CONSUMERS * GROUP>(); // sums are there
    const u32 row = blockIdx.x * TILE_M + group * 64, column = blockIdx.y * TILE_N;
    static_assert(PART_ROWS == 64, "a group has a part");
    for (u32 i = threadIdx.x % GROUP; i < TILE_N; i += GROUP) {
        float sum = 0.0f;
        for (u32 w = 0; w < 4; ++w) sum += s.sums[group * 64 + w * 16][i];
        if (row < a.out.rows() && column + i < a.out.c) a.squares()[row / PART_ROWS * a.out.c + column + i] = sum;
    }
}

// First row in the block's tile of this warp's sixteen.
DEVICE u32 first_row() { return warp() * 16; }

// Leaves a warp's sums in shared memory: there they change lanes, four neighbouring ones along a row. That is also what keeps
// the epilogue from being written out for all of them.
DEVICE void stage_sums(Stages& s, const float (&sums)[TILE_N / 2]) {
#pragma unroll
    for (u32 j = 0; j < TILE_N / 8; ++j) {
        float* at = &s.sums[first_row() + lane() / 4][j * 8 + lane() % 4 * 2];
        *reinterpret_cast<float2*>(at) = make_float2(sums[4 * j], sums[4 * j + 1]);
        *reinterpret_cast<float2*>(at + 8 * STRIDE) = make_float2(sums[4 * j + 2], sums[4 * j + 3]);
    }
    __syncwarp();
}

// Results of a warp's sums in columns `begin` to `end` of the tile, whose squares are added up if the layer leaves that. The
// residuals of the next chunks are read before these are stored.
DEVICE void store_results(const Args& a, Stages& s, u32 begin, u32 end) {
    const Epilogue<true> epilogue(a);
    const u32 first = first_row();
    // Of every SLICE columns a lane has a chunk of two rows, eight rows apart.
    constexpr u32 SLICE = 4 * CHUNK, ROWS = 2;
    const u32 row = first + lane() / 4, column = lane() % 4 * CHUNK;
    float next[ROWS][CHUNK];
    const auto load = [&](u32 from) {
        if (from + column >= end) return;
#pragma unroll
        for (u32 r = 0; r < ROWS; ++r) {
            epilogue.load_residual(blockIdx.x * TILE_M + row + 8 * r, blockIdx.y * TILE_N + from + column, next[r]);
        }
    };
    load(begin);
#pragma unroll 1
    for (u32 from = begin; from < end; from += SLICE) {
        const u32 at = blockIdx.y * TILE_N + from + column;
        float residual[ROWS][CHUNK];
#pragma unroll
        for (u32 i = 0; i < ROWS * CHUNK; ++i) residual[i / CHUNK][i % CHUNK] = next[i / CHUNK][i % CHUNK];
        load(from + SLICE);
        Squares squares;
        if (from + column < end) {
            float bias[CHUNK];
            epilogue.load_bias(at, bias);
#pragma unroll
            for (u32 r = 0; r < ROWS; ++r) {
                float chunk[CHUNK];
                load_reals(chunk, &s.sums[row + 8 * r][from + column], CHUNK, true);
                epilogue.store(blockIdx.x * TILE_M + row + 8 * r, at, chunk, bias, residual[r]);
                squares.add(chunk);
            }
        }
        if (!a.squares()) continue;
        const float total = squares.total();
        __syncwarp(); // all have read
        if (from + Squares::column() < end) s.sums[first][from + Squares::column()] = total;
    }
}

// A block's tile of the sums over `count` stages from term `first` on: finish(group), when they are where stages were.
template <class Finish>
DEVICE void linear_tile(const Args& a, const Maps& maps, Stages& s, u32 first, u32 count, const Finish& finish) {
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < STAGES; ++i) s.full[i].init(1), s.empty[i].init(4 * CONSUMERS * CLUSTER);
        show_barriers();
    }
    cluster_barrier();
    if (threadIdx.x >= CONSUMERS * GROUP) {
        fewer_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == CONSUMERS * GROUP) produce(s, maps, first, count);
        __syncwarp(); // whole warps meet the cluster
        cluster_arrive();
    } else {
        more_registers<CONSUMER_REGISTERS>();
        const u32 group = threadIdx.x / GROUP;
        float sums[TILE_N / 2];
        if (a.has(SCALE)) {
            consume_scaled(a, s, sums, group, first, count);
        } else {
            consume(s, sums, group, count);
        }
        cluster_arrive(); // before the result is stored, which no other block waits for
        group_barrier<1, CONSUMERS * GROUP>(); // stages have been used
        stage_sums(s, sums);
        finish(group);
    }
    cluster_wait(); // until then other blocks write to this one's stages and barriers
}

// The whole layer.
DEVICE void linear_on_tiles(const Args& a, const Maps& maps, Stages& s) {
    linear_tile(a, maps, s, 0, div_up(a.shape[X].c, TILE_K), [&](u32 group) {
        store_results(a, s, 0, TILE_N);
        if (a.squares()) leave_squares(a, s, group);
    });
}
