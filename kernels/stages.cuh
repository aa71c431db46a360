// The pipeline of stages in shared memory on Hopper: a producer issues TMA copies up to STAGES ahead of the consumer warpgroups
// that multiply them. A stage's barrier `full` completes when its bytes have landed, `empty` when the consumers of the whole
// cluster have released it. The including file defines STAGES and the cluster's size.
#pragma once
#include "wgmma.cuh"

constexpr u32 CLUSTER = CLUSTER_X * CLUSTER_Y;

// The next stage to fill or to multiply, and the parity of the phase in which it is filled.
struct PipelineState {
    u32 stage = 0, parity = 0;
    DEVICE void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

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
}
