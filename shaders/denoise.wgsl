// denoise: e = cond - (cond - uncond)·(1 - g) with guidance, else eps; x <- c0·(x - c1·e) + sigma·z
//
// x             [n, h, w, c] f32, arena; in `out` where in place                                           binding 2
// eps           [n, h, w, c] f32, or guided [2n, h, w, c]: the conditional images, then the others; arena  binding 3
// noise         [steps·n, h, w, c] f32, z of every step, or [n, h, w, c] of this step; arena               binding 4
// coefficients  [steps, 4] f32: c0, c1, sigma, g of every step; arena                                      binding 5
// counter       [1] u32: the step; arena                                                                   binding 6
// out           [n, h, w, c] f32, arena                                                                    binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads x, eps and one step's noise once, writes out once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/denoise.rs
override WG: u32 = 64u;
@id(0) override x_kind: u32;

struct Params {
    out: Shape,
    x: Shape,
    eps: Shape,
    noise: Shape,
    coefficients: Shape,
    counter: Shape,
    guided: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> eps: array<f32>;
@group(0) @binding(4) var<storage, read_write> noise: array<f32>;
@group(0) @binding(5) var<storage, read_write> coefficients: array<f32>;
@group(0) @binding(6) var<storage, read_write> counter: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let size = p.out.n * p.out.h * p.out.w * p.out.c;
    if i >= size { return; }
    let step = counter[0];
    let c0 = coefficients[4u * step];
    let c1 = coefficients[4u * step + 1u];
    let sigma = coefficients[4u * step + 2u];
    var e = eps[i];
    if p.guided != 0u {
        e -= (e - eps[size + i]) * (1.0 - coefficients[4u * step + 3u]);
    }
    var latent: f32;
    if x_kind == IN_PLACE { latent = out[i]; } else { latent = x[i]; }
    let first = select(step * size, 0u, p.noise.n == p.out.n);
    out[i] = c0 * (latent - c1 * e) + sigma * noise[first + i];
}
