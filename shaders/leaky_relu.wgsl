// leaky_relu: y = x where x is positive, else slope·x
//
// x       [n, h, w, c] f32, arena; in `out` where in place  binding 2
// out     [n, h, w, c] f32, arena                           binding 1
//
// Launch     one lane per element, WG lanes per workgroup.
// Memory     reads x once, writes y once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/leaky_relu.rs
override WG: u32 = 64u;
@id(0) override x_kind: u32;

struct Params { out: Shape, x: Shape, slope: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

fn leaky(v: f32) -> f32 { return select(p.slope * v, v, v > 0.0); }

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w * p.out.c { return; }
    if x_kind == IN_PLACE {
        out[i] = leaky(out[i]);
    } else {
        out[i] = leaky(x[i]);
    }
}
