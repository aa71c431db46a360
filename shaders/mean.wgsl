// mean: y[ch] = sum of x[row, col, ch] over an image / (h·w)
//
// x        [n, h, w, c] f32, arena                       binding 2
// out      [n, 1, 1, c] f32, arena                       binding 1
// scratch  [n, ceil(h·w / PIXELS), c] f32, partial sums  binding 12
//
// Launch     `sums`: one lane per channel, block of PIXELS pixels and image, WG channels per workgroup;
//            `main`: one lane per element of out, WG lanes per workgroup.
// Memory     reads x once.
// Numerics   f32; sums over blocks of pixels, then over blocks.
// Needs      nothing optional.
// Tunables   WG, PIXELS.
// Reference  src/ops/mean.rs
override WG: u32 = 64u;
override PIXELS: u32 = 64u;

struct Params { out: Shape, x: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(12) var<storage, read_write> scratch: array<f32>;

fn blocks() -> u32 {
    return (p.x.h * p.x.w + PIXELS - 1u) / PIXELS;
}

@compute @workgroup_size(WG)
fn sums(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = part.first + id;
    let ch = group.x * WG + lane;
    if ch >= p.x.c { return; }
    let pixels = p.x.h * p.x.w;
    let end = min((group.y + 1u) * PIXELS, pixels);
    var sum = 0.0;
    for (var pixel = group.y * PIXELS; pixel < end; pixel++) {
        sum += x[(group.z * pixels + pixel) * p.x.c + ch];
    }
    scratch[(group.z * blocks() + group.y) * p.x.c + ch] = sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.c { return; }
    let base = i / p.out.c * blocks() * p.out.c + i % p.out.c;
    var sum = 0.0;
    for (var block = 0u; block < blocks(); block++) {
        sum += scratch[base + block * p.out.c];
    }
    out[i] = sum / f32(p.x.h * p.x.w);
}
