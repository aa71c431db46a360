// concat: a, then b, along channels, tokens or images
//
// a       [n, h, w, c] f32 or bf16
// b       [n, h, w, c] f32 or bf16, which may differ from a's shape along the axis only
// out     f32 or bf16
//
// Launch     one thread per element of out.
// Shared     none.
// Memory     reads a and b once, writes out once.
// Numerics   exact: values are copied.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/concat.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(concat) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    // The result alternates between contiguous runs of a and of b.
    enum { CHANNELS, TOKENS, IMAGES }; // ops::Concat
    const auto run = [&](const Shape& s) -> u32 {
        return a.constant[0] == CHANNELS ? s.c : a.constant[0] == TOKENS ? s.w * s.c : s.elements();
    };
    const u32 run_a = run(a.shape[0]), run_b = run(a.shape[1]);
    const u32 at = i / (run_a + run_b), within = i % (run_a + run_b);
    a.store(i, within < run_a ? a.tensor(0)[at * run_a + within] : a.tensor(1)[at * run_b + within - run_a]);
}
