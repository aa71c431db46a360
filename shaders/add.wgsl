// add: y = a + b, b the same for every image if its n is 1
//
// a       [n, h, w, c] f32, arena; in `out` where in place  binding 2
// b       [n or 1, h, w, c] f32, arena                      binding 3
// out     [n, h, w, c] f32, arena                           binding 1
//
// Launch     one lane per element, WG lanes per workgroup.
// Memory     reads a and b once, writes y once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/add.rs
override WG: u32 = 64u;
@id(0) override a_kind: u32;

struct Params { out: Shape, a: Shape, b: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> a: array<f32>;
@group(0) @binding(3) var<storage, read_write> b: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let image = p.out.h * p.out.w * p.out.c;
    if i >= p.out.n * image { return; }
    let from_b = select(i, i % image, p.b.n == 1u);
    if a_kind == IN_PLACE {
        out[i] = out[i] + b[from_b];
    } else {
        out[i] = a[i] + b[from_b];
    }
}
