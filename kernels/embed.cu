// embed: y = tokens[ids] + positions
//
// ids        [n, 1, t, 1] u32; an id beyond the table reads its last row
// tokens     [v, c] any type
// positions  [p, c] any type, or absent
// out        [n, 1, t, c] f32 or bf16
//
// Launch     one thread per element of out.
// Shared     none.
// Memory     reads one row of each table for each id.
// Numerics   f32.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/embed.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

KERNEL(embed) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 c = i % a.out.c, row = i / a.out.c;
    const u32 id = min_of(a.index(0)[row], a.shape[1].w - 1);
    float y = a.tensor(1)[id * a.out.c + c];
    if (a.has(2)) y += a.tensor(2)[row % a.out.w * a.out.c + c];
    a.store(i, y);
}
