// modulate: y = x·(1 + a) + b, a and b from the current step's row of a table
//
// x        [n, h, w, c] f32, arena; in `out` where in place                                      binding 2
// table    [n or 1, 1, steps, 2c] f32: a, then b; the same for every image if its n is 1; arena  binding 3
// counter  [1] u32: the step; arena                                                              binding 4
// out      [n, h, w, c] f32, arena                                                               binding 1
//
// Launch     one lane per element, WG lanes per workgroup.
// Memory     reads x once and the table's row from cache, writes y once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/modulate.rs
override WG: u32 = 64u;
@id(0) override x_kind: u32;

struct Params { out: Shape, x: Shape, table: Shape, counter: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> table: array<f32>;
@group(0) @binding(4) var<storage, read_write> counter: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let size = p.out.h * p.out.w * p.out.c;
    if i >= p.out.n * size { return; }
    let image = select(i / size, 0u, p.table.n == 1u);
    let at = (image * p.table.w + min(counter[0], p.table.w - 1u)) * p.table.c + i % p.out.c;
    var v: f32;
    if x_kind == IN_PLACE { v = out[i]; } else { v = x[i]; }
    out[i] = v * (1.0 + table[at]) + table[at + p.out.c];
}
