// batch_norm: y = f((x - mean) / sqrt(var + eps) * weight + bias)
//
// x             [n, h, w, c] f32; may be out
// mean, var     [c] any type
// weight, bias  [c] any type, both or neither
// out           [n, h, w, c] f32 or bf16
//
// Launch     one thread per element.
// Shared     none.
// Memory     reads x once, writes y once; the rest stays in L1.
// Numerics   f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/batch_norm.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(batch_norm) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 c = i % a.out.c;
    float v = (a.real(0)[i] - a.tensor(1)[c]) / sqrtf(a.tensor(2)[c] + a.number(0));
    if (a.has(3)) v = v * a.tensor(3)[c] + a.tensor(4)[c];
    a.store(i, apply(a.constant[1], v));
}
