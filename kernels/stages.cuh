// Stages in shared memory on Hopper: one warp copies tiles there, STAGES ahead of the groups that multiply them. `full` says that a
// stage's bytes have landed, `empty` that the consumers of the whole cluster have left it. STAGES and the cluster's size are
// of the including file.
#pragma once
#include "wgmma.cuh"

constexpr u32 CLUSTER = CLUSTER_X * CLUSTER_Y;

// Which stage is next, and the parity of the phase in which it is filled.
struct Turn {
    u32 stage = 0, parity = 0;
    DEVICE void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Says to all blocks that write there that this warp has left a stage.
template <class Stages> DEVICE void leave(Stages& s, u32 stage) {
    __syncwarp();
    if (lane() < CLUSTER) s.empty[stage].arrive_at(lane());
}

// Multiplies `count` stages, at least one. start(stage, onto) starts the products of one, onto sums from the second on.
template <class Stages, class Start> DEVICE void multiply_stages(Stages& s, u32 count, const Start& start) {
    Turn turn;
    s.full[turn.stage].wait(turn.parity);
    start(turn.stage, false);
    for (u32 i = 1; i < count; ++i) {
        const u32 before = turn.stage;
        turn.next();
        s.full[turn.stage].wait(turn.parity);
        start(turn.stage, true);
        products_wait<1>(); // the stage before is done with
        leave(s, before);
    }
    products_wait<0>();
}
