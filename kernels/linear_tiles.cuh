// A linear layer on Hopper's tensor cores. The including file defines the tile size (TILE_M, TILE_N), the number of pipeline
// STAGES, and how many blocks along rows (CLUSTER_X) and along channels (CLUSTER_Y) form a cluster.
//
// One producer thread issues TMA copies of K tiles of x and of the weight, STAGES ahead; consumer warpgroups multiply them,
// 64 rows each. Blocks of a cluster along rows share a tile of the weight, those along channels share x: each block copies a
// part of it to all of them by multicast. So a stage is free when the consumers of the whole cluster have released it.
#pragma once
#include "grn_squares.cuh"
#include "linear_scale.cuh"
#include "stages.cuh"

constexpr u32 WARPGROUP = 128; // threads
constexpr u32 CONSUMERS = TILE_M / 64; // warpgroups
constexpr u32 STEPS = TILE_K / 16;  // MMAs of a stage
constexpr u32 STRIDE = TILE_N + 8;  // of staged accumulators: four rows of pairs lie in different banks
constexpr u32 CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : 240; // per thread; an SM has 64 Ki
constexpr u32 PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : 24;
static_assert(THREADS == WARPGROUP * (CONSUMERS + 1) && TILE_M % 64 == 0, "a consumer warpgroup per 64 rows, and the producer's");
static_assert(CONSUMERS == 2 || CONSUMERS == 3, "registers are shared out for these");
static_assert(WARPGROUP * (CONSUMERS * CONSUMER_REGISTERS + PRODUCER_REGISTERS) <= block_registers(THREADS), "registers suffice");
static_assert(TILE_M / CLUSTER_Y % 8 == 0 && TILE_N / CLUSTER_X % 8 == 0, "each block's part begins at a multiple of the swizzle");

struct Stages {
    union {
        struct {
            alignas(1024) u16 x[STAGES][TILE_M * TILE_K];
            alignas(1024) u16 weight[STAGES][TILE_N * TILE_K];
        };
        float staged[TILE_M][STRIDE]; // accumulators, in the epilogue
    };
    TileBarrier full[STAGES], empty[STAGES];
};

// The copies of this block's parts of a stage, which it shares with the blocks beside it. The first stage begins at column `first`
// of x.
struct Copies {
    static constexpr bool EARLY = true; // weights are learned
    static constexpr u32 ROWS = TILE_M / CLUSTER_Y, COLUMNS = TILE_N / CLUSTER_X;
    Stages& s;
    const Maps& maps;
    const u32 first, across = cluster_rank() % CLUSTER_X, along = cluster_rank() / CLUSTER_X; // place in the cluster
    DEVICE Copies(Stages& stages, const Maps& of, u32 from) : s(stages), maps(of), first(from) {}

    DEVICE void x(u32 stage, u32 i) const {
        const u32 k = first + i * TILE_K, row = blockIdx.x * TILE_M + along * ROWS;
        u16* to = &s.x[stage][along * ROWS * TILE_K];
        if constexpr (CLUSTER_Y > 1) {
            copy_tile_to((1u | 1u << CLUSTER_X) << across, to, maps.of[X], k, row, 0, s.full[stage]);
        } else {
            copy_tile(to, maps.of[X], k, row, 0, s.full[stage]);
        }
    }
    DEVICE void weight(u32 stage, u32 i) const {
        const u32 k = first + i * TILE_K, column = blockIdx.y * TILE_N + across * COLUMNS;
        u16* to = &s.weight[stage][across * COLUMNS * TILE_K];
        if constexpr (CLUSTER_X > 1) {
            copy_tile_to(3u << along * CLUSTER_X, to, maps.of[WEIGHT], k, column, 0, s.full[stage]);
        } else {
            copy_tile(to, maps.of[WEIGHT], k, column, 0, s.full[stage]);
        }
    }
};

// A consumer: acc = x w^T over `count` stages, at least one, with x as it lies in shared memory.
DEVICE void consume(Stages& s, float (&acc)[TILE_N / 2], u32 warpgroup, u32 count) {
    const auto start = [&](u32 stage, bool onto) {
        const u16* x = &s.x[stage][warpgroup * 64 * TILE_K];
        const u16* weight = s.weight[stage];
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < STEPS; ++k) start_wgmma(acc, x + k * 16, weight + k * 16, onto || k > 0);
        wgmma_commit();
    };
    multiply_stages(s, count, start);
}

// The same of x * scale + shift, which goes through registers. The fragments of half a stage are made while the tensor cores
// multiply those of the half before. Each half has registers of its own, which are written again only when the MMAs
// that read them are over. With one set of registers, copied to another when the MMAs are over, the compiler would make
// them one and write them too early.
template <u32 KIND>
DEVICE void consume_scaled(const Args& a, Stages& s, float (&acc)[TILE_N / 2], u32 warpgroup, u32 first, u32 count) {
    constexpr u32 HALF = STEPS / 2;
    ScaleA<KIND> scale(a, blockIdx.x * TILE_M + warpgroup * 64 + warp() % 4 * 16 + lane() / 4, first);
    const u32 row = warpgroup * 64 + warp() % 4 * 16 + lane() % 16;
    u32 fragments[2][HALF][4], before = 0;
#pragma unroll
    for (u32 i = 0; i < TILE_N / 2; ++i) acc[i] = 0.0f;
    PipelineState state;
    for (u32 i = 0; i < count; ++i, state.next(), scale.next_stage()) {
        s.full[state.stage].wait(state.parity);
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            u32(&own)[HALF][4] = fragments[half];
#pragma unroll
            for (u32 j = 0; j < HALF; ++j) {
                const u32 k = half * HALF + j;
                load_matrices(own[j], &s.x[state.stage][tile_place(row, 2 * k + lane() / 16)]);
                scale.apply_to(own[j], k * 16);
            }
            if (half == 1) proxy_fence(); // x has been read, before the stage is released
            wgmma_fence();
#pragma unroll
            for (u32 j = 0; j < HALF; ++j) {
                start_wgmma(acc, own[j], s.weight[state.stage] + (half * HALF + j) * 16, true);
            }
            wgmma_commit();
            wgmma_wait<1>(); // the MMAs of the other half are over
            if (half == 0 && i > 0) release(s, before);
        }
        before = state.stage;
    }
    wgmma_wait<0>();
    release(s, before);
}

// Sums up the squares that the warps of a warpgroup have left in their first rows.
DEVICE void store_squares(const Args& a, const Stages& s, u32 warpgroup) {
    named_barrier<1, CONSUMERS * WARPGROUP>(); // all warps have left theirs
    const u32 row = blockIdx.x * TILE_M + warpgroup * 64, column = blockIdx.y * TILE_N;
    static_assert(PART_ROWS == 64, "the rows of a warpgroup");
    for (u32 i = threadIdx.x % WARPGROUP; i < TILE_N; i += WARPGROUP) {
        float sum = 0.0f;
        for (u32 w = 0; w < 4; ++w) sum += s.staged[warpgroup * 64 + w * 16][i];
        if (row < a.out.rows() && column + i < a.out.c) a.squares()[row / PART_ROWS * a.out.c + column + i] = sum;
    }
}

// The first of this warp's sixteen rows in the block's tile.
DEVICE u32 first_row() { return warp() * 16; }

// Stages a warp's accumulators in shared memory, where they change lanes, so that four neighbouring lanes hold a row's columns. A
// loop over shared memory also keeps the epilogue's code short: registers could only be indexed by unrolling it.
DEVICE void stage_accumulators(Stages& s, const float (&acc)[TILE_N / 2]) {
#pragma unroll
    for (u32 j = 0; j < TILE_N / 8; ++j) {
        float* at = &s.staged[first_row() + lane() / 4][j * 8 + lane() % 4 * 2];
        *reinterpret_cast<float2*>(at) = make_float2(acc[4 * j], acc[4 * j + 1]);
        *reinterpret_cast<float2*>(at + 8 * STRIDE) = make_float2(acc[4 * j + 2], acc[4 * j + 3]);
    }
    __syncwarp();
}

// The epilogue of columns `begin` to `end` of a warp's rows. If the layer computes GRN statistics, sums of squares are left in the
// warp's first row. The residuals of the next chunks are loaded before these are stored.
DEVICE void store_results(const Args& a, Stages& s, u32 begin, u32 end) {
    const Epilogue<true> epilogue(a);
    const u32 first = first_row();
    // Of every SLICE columns a lane has a chunk in each of two rows, eight rows apart.
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
                load_reals(chunk, &s.staged[row + 8 * r][from + column], CHUNK, true);
                epilogue.store(blockIdx.x * TILE_M + row + 8 * r, at, chunk, bias, residual[r]);
                squares.add(chunk);
            }
        }
        if (!a.squares()) continue;
        const float total = squares.total();
        __syncwarp(); // all lanes have read
        if (from + Squares::column() < end) s.staged[first][from + Squares::column()] = total;
    }
}

// A block's tile over `count` stages from column `first` of x on. Calls finish(warpgroup) when the accumulators are staged.
template <class Finish>
DEVICE void linear_tile(const Args& a, const Maps& maps, Stages& s, u32 first, u32 count, const Finish& finish) {
    const Copies copies(s, maps, first);
    const bool is_producer = threadIdx.x == CONSUMERS * WARPGROUP;
    begin_stages(s, maps, copies, is_producer, count);
    if (threadIdx.x >= CONSUMERS * WARPGROUP) {
        fewer_registers<PRODUCER_REGISTERS>();
        if (is_producer) fill_stages(s, copies, count);
    } else {
        more_registers<CONSUMER_REGISTERS>();
        const u32 warpgroup = threadIdx.x / WARPGROUP;
        float acc[TILE_N / 2];
        if (a.has(SCALE)) {
            const bool whole = first + count * TILE_K <= a.shape[X].c;
            switch (whole ? a.kind[SHIFT] : u32(ANY)) {
            case BF16: consume_scaled<BF16>(a, s, acc, warpgroup, first, count); break;
            case F32: consume_scaled<F32>(a, s, acc, warpgroup, first, count); break;
            default: consume_scaled<ANY>(a, s, acc, warpgroup, first, count);
            }
        } else {
            consume(s, acc, warpgroup, count);
        }
        named_barrier<1, CONSUMERS * WARPGROUP>(); // all stages have been consumed
        stage_accumulators(s, acc);
        finish(warpgroup);
    }
}

// The whole layer.
DEVICE void linear_on_tiles(const Args& a, const Maps& maps, Stages& s) {
    linear_tile(a, maps, s, 0, div_up(a.shape[X].c, TILE_K), [&](u32 warpgroup) {
        store_results(a, s, 0, TILE_N);
        if (a.squares()) store_squares(a, s, warpgroup);
    });
}
