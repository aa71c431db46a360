// gate: y = x·sigmoid(s), s one value per channel and image
//
// x       [n, h, w, c] f32, arena; in `out` where in place  binding 2
// s       [n, 1, 1, c] f32, arena                           binding 3
// out     [n, h, w, c] f32, arena                           binding 1
//
// Launch     one lane per element, WG lanes per workgroup.
// Memory     reads x once and s from cache, writes y once.
// Numerics   f32. WGSL guarantees no infinities, so the argument is clamped to where exp is finite.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/gate.rs
override WG: u32 = 64u;
@id(0) override x_kind: u32;

struct Params { out: Shape, x: Shape, s: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> s: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let image = p.out.h * p.out.w * p.out.c;
    if i >= p.out.n * image { return; }
    let logit = s[i / image * p.out.c + i % p.out.c];
    let inverse = 1.0 + exp(min(-logit, 80.0)); // 1 / sigmoid(logit)
    if x_kind == IN_PLACE {
        out[i] = out[i] / inverse;
    } else {
        out[i] = x[i] / inverse;
    }
}
