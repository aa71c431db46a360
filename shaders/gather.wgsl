// gather: y[i] = x[index[i]], whole rows
//
// x       [n, h, w, c] f32, arena                  binding 2
// index   [m] u32, arena; clamped to the last row  binding 3
// out     [m, 1, 1, c] f32, arena                  binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads the indexed rows once, writes out once.
// Numerics   exact: values are copied.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/gather.rs
override WG: u32 = 64u;

struct Params { out: Shape, x: Shape, index: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> index: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.c { return; }
    let row = min(index[i / p.out.c], p.x.n * p.x.h * p.x.w - 1u);
    out[i] = x[row * p.out.c + i % p.out.c];
}
