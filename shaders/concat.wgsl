// concat: a, then b, along the channels, the tokens or the images
//
// a       [n, h, w, c] f32, arena, may differ in size from b along the axis only  binding 2
// b       [n, h, w, c] f32, arena                                                 binding 3
// out     [n, h, w, c] f32, arena: a, then b                                      binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads a and b once, writes out once.
// Numerics   exact: values are copied.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/concat.rs
override WG: u32 = 64u;

struct Params { out: Shape, a: Shape, b: Shape, axis: u32 }

// ops::Concat
const CHANNELS: u32 = 0u;
const TOKENS: u32 = 1u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> a: array<f32>;
@group(0) @binding(3) var<storage, read_write> b: array<f32>;

// Number of contiguous elements of s in out.
fn run(s: Shape) -> u32 {
    switch p.axis {
        case CHANNELS: { return s.c; }
        case TOKENS: { return s.w * s.c; }
        default: { return s.n * s.h * s.w * s.c; }
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w * p.out.c { return; }
    let len_a = run(p.a);
    let len_b = run(p.b);
    let run_index = i / (len_a + len_b);
    let at = i % (len_a + len_b);
    if at < len_a {
        out[i] = a[run_index * len_a + at];
    } else {
        out[i] = b[run_index * len_b + at - len_a];
    }
}
