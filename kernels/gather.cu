// gather: y[i] = x[index[i]], whole rows
//
// x       [n, h, w, c] f32
// index   [1, 1, 1, m] u32; an index beyond the rows reads the last
// out     [m, 1, 1, c] f32 or bf16
//
// Launch     one thread per element of out.
// Shared     none.
// Memory     reads the indexed rows, writes y once.
// Numerics   exact: values are copied.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/gather.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(gather) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 row = min_of(a.index(1)[i / a.out.c], a.shape[0].rows() - 1);
    a.store(i, a.real(0)[row * a.out.c + i % a.out.c]);
}
