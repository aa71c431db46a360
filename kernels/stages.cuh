// The pipeline of stages in shared memory on Hopper: a producer issues TMA copies up to STAGES ahead of the consumer warpgroups
// that multiply them. A stage's barrier `full` completes when its bytes have landed, `empty` when the consumers of the whole
// cluster have released it. The including file defines STAGES and the cluster's size, and `Copies`, which issues the copies of
// this block's parts of K tile i:
//
//     weight(stage, i), x(stage, i)
//     EARLY                          whether no launch writes the weight: then its first copies need not wait for one
#pragma once
#include "wgmma.cuh"

constexpr u32 CLUSTER = CLUSTER_X * CLUSTER_Y;
constexpr u32 STAGE_BYTES = (TILE_M + TILE_N) * TILE_K * sizeof(u16);
constexpr u32 CONSUMER_WARPS = TILE_M / 16;

// The next stage to fill or to multiply, and the parity of the phase in which it is filled.
struct PipelineState {
    u32 stage = 0, parity = 0;
    DEVICE void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// The first copies into a stage of a fill.
template <class Stages, class Copies> DEVICE void begin_stage(Stages& s, const Copies& copies, u32 stage, u32 i) {
    s.full[stage].arrive_expecting(STAGE_BYTES);
    copies.weight(stage, i);
}

// How many stages get their weights before the previous launch is waited for.
template <class Copies> DEVICE u32 early(u32 count) { return Copies::EARLY ? min_of(STAGES, count) : 0; }

// Begins a block that will multiply `count` stages: what needs no other launch's results, and then the wait for the previous one.
template <class Stages, class Copies>
DEVICE void begin_stages(Stages& s, const Maps& maps, const Copies& copies, bool is_producer, u32 count) {
    if (threadIdx.x == 0) {
        for (const TensorMap& map : maps.of) prefetch_map(map);
        for (u32 i = 0; i < STAGES; ++i) s.full[i].init(1), s.empty[i].init(CONSUMER_WARPS * CLUSTER);
        show_barriers();
    }
    cluster_begin();
    if (is_producer) {
        for (u32 i = 0; i < early<Copies>(count); ++i) begin_stage(s, copies, i, i);
    }
    wait_for_previous_launch();
}

// The producer, one thread: fills the stages, and stays until all blocks of the cluster have released what it has copied. Then
// its copies have landed everywhere, and nobody arrives at this block's barriers any more: it may end.
template <class Stages, class Copies> DEVICE void fill_stages(Stages& s, const Copies& copies, u32 count) {
    PipelineState state;
    // The first wait for a stage is for the phase before the first, which counts as over.
    const auto wait_empty = [&] { s.empty[state.stage].wait(state.parity ^ 1); };
    for (u32 i = 0; i < count; ++i, state.next()) {
        if (i >= early<Copies>(count)) {
            wait_empty();
            begin_stage(s, copies, state.stage, i);
        }
        copies.x(state.stage, i);
    }
    for (u32 i = 0; i < STAGES; ++i, state.next()) wait_empty();
}

// Tells all blocks that write to a stage that this warp has read it.
template <class Stages> DEVICE void release(Stages& s, u32 stage) {
    __syncwarp();
    if (lane() < CLUSTER) s.empty[stage].arrive_at(lane());
}

// Multiplies `count` stages, at least one. start(stage, onto) starts the MMAs of a stage, which add to the accumulators if `onto`,
// that is from the second stage on. The MMAs of one stage are in flight while those of the next start.
template <class Stages, class Start> DEVICE void multiply_stages(Stages& s, u32 count, const Start& start) {
    PipelineState state;
    s.full[state.stage].wait(state.parity);
    start(state.stage, false);
    for (u32 i = 1; i < count; ++i) {
        const u32 before = state.stage;
        state.next();
        s.full[state.stage].wait(state.parity);
        start(state.stage, true);
        wgmma_wait<1>(); // the MMAs of the stage before are over
        release(s, before);
    }
    wgmma_wait<0>();
    release(s, state.stage);
}
