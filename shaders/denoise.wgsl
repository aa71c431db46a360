// denoise: a·x + b·eps + h·history + sigma·z, with factors of the current step
//
// x        [n, h, w, c] f32, arena; in `out` where in place                                     binding 2
// eps      [n, h, w, c] f32, arena                                                              binding 3
// history  [n, h, w, c] f32, arena; or absent                                                   binding 4
// noise    [steps·n, h, w, c] f32, z of every step, or [n, h, w, c] of this step; or absent     binding 5
// factors  [steps, 4] f32: a, b, h, sigma of every step; arena                                  binding 6
// counter  [1] u32: the step; arena                                                             binding 7
// out      [n, h, w, c] f32, arena                                                              binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads x, eps, history and one step's noise once, writes out once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/denoise.rs
override WG: u32 = 64u;
@id(0) override x_kind: u32;
@id(2) override history_kind: u32;
@id(3) override noise_kind: u32;

struct Params {
    out: Shape,
    x: Shape,
    eps: Shape,
    history: Shape,
    noise: Shape,
    factors: Shape,
    counter: Shape,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> eps: array<f32>;
@group(0) @binding(4) var<storage, read_write> history: array<f32>;
@group(0) @binding(5) var<storage, read_write> noise: array<f32>;
@group(0) @binding(6) var<storage, read_write> factors: array<f32>;
@group(0) @binding(7) var<storage, read_write> counter: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let size = p.out.n * p.out.h * p.out.w * p.out.c;
    if i >= size { return; }
    let step = min(counter[0], p.factors.w - 1u);
    var latent: f32;
    if x_kind == IN_PLACE { latent = out[i]; } else { latent = x[i]; }
    var y = factors[4u * step] * latent + factors[4u * step + 1u] * eps[i];
    if history_kind != ABSENT { y += factors[4u * step + 2u] * history[i]; }
    if noise_kind != ABSENT {
        let first = select(step * size, 0u, p.noise.n == p.out.n);
        y += factors[4u * step + 3u] * noise[first + i];
    }
    out[i] = y;
}
