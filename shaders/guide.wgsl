// guide: cond + (cond - uncond)·(g - 1), classifier-free guidance
//
// eps       [2n, h, w, c] f32: the conditional images, then the others; arena  binding 2
// guidance  [steps, 3] f32: g of every step, and two numbers unused here; arena  binding 3
// counter   [1] u32: the step; arena                                           binding 4
// out       [n, h, w, c] f32, arena                                            binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads eps once, writes out once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/guide.rs
override WG: u32 = 64u;

struct Params { out: Shape, eps: Shape, guidance: Shape, counter: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> eps: array<f32>;
@group(0) @binding(3) var<storage, read_write> guidance: array<f32>;
@group(0) @binding(4) var<storage, read_write> counter: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let size = p.out.n * p.out.h * p.out.w * p.out.c;
    if i >= size { return; }
    out[i] = eps[i] + (eps[i] - eps[size + i]) * (guidance[3u * min(counter[0], p.guidance.w - 1u)] - 1.0);
}
