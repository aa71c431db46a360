// concat: four elements per thread; all channels are multiples of four
//
// Operands as in concat.cu.
//
// Launch     one thread per float4 of out.
// Shared     none.
// Memory     reads a and b once and writes out once, 16 bytes per thread each (8 for bf16): 16 to 32 KiB in flight on an SM
//            with 2048 threads, where the bandwidth times latency of an H100 is 20 KiB.
// Counts     a once, b once, y once; 16 bytes a thread
// Numerics   exact: values are copied.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/concat.rs
#include "float4.cuh"

constexpr u32 THREADS = 256;
constexpr u32 ELEMENTS = 1024;
static_assert(ELEMENTS == THREADS * VEC, "one float4 per thread");

KERNEL(concat_float4) {
    const u32 i = this_element() * VEC;
    if (i >= a.out.elements()) return;
    // The result alternates between contiguous runs of a and of b.
    enum { CHANNELS, TOKENS, IMAGES }; // ops::Concat
    const auto run = [&](const Shape& s) -> u32 {
        return a.constant[0] == CHANNELS ? s.c : a.constant[0] == TOKENS ? s.w * s.c : s.elements();
    };
    const u32 run_a = run(a.shape[0]), run_b = run(a.shape[1]);
    const u32 at = i / (run_a + run_b), within = i % (run_a + run_b);
    const bool first = within < run_a;
    store_float4(a, i, load_float4(a.tensor(first ? 0 : 1), first ? at * run_a + within : at * run_b + within - run_a));
}
