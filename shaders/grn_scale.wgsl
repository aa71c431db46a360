// grn_scale: G[ch] = sqrt(sum of x[row, col, ch]² over an image), s[ch] = 1 + gamma[ch]·G[ch] / (mean(G) + eps)
//
// x        [n, h, w, c] f32, arena                                                       binding 2
// gamma    [c] learned                                                                   binding 3
// out      [n, 1, 1, c] f32, arena                                                       binding 1
// scratch  [n, ceil(h·w / PIXELS), c] f32, partial sums; later G, in place of the first  binding 12
//
// Launch     `squares`: one lane per channel, block of PIXELS pixels and image, WG channels per workgroup;
//            `norms` and `main`: one lane per channel and image, WG channels per workgroup.
// Memory     reads x once; each workgroup of `main` reads G of its whole image, from cache.
// Numerics   f32; sums over blocks of pixels, then over blocks; the mean of G from one partial sum per lane.
// Needs      nothing optional. WG is a power of two.
// Tunables   WG, PIXELS.
// Reference  src/ops/grn_scale.rs
override WG: u32 = 64u;
override PIXELS: u32 = 64u;
@id(1) override gamma_kind: u32;

struct Params { out: Shape, x: Shape, gamma: Shape, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<u32>;
@group(0) @binding(12) var<storage, read_write> scratch: array<f32>;

fn blocks() -> u32 {
    return (p.x.h * p.x.w + PIXELS - 1u) / PIXELS;
}

@compute @workgroup_size(WG)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = part.first + id;
    let ch = group.x * WG + lane;
    if ch >= p.x.c { return; }
    let pixels = p.x.h * p.x.w;
    let end = min((group.y + 1u) * PIXELS, pixels);
    var sum = 0.0;
    for (var pixel = group.y * PIXELS; pixel < end; pixel++) {
        let v = x[(group.z * pixels + pixel) * p.x.c + ch];
        sum += v * v;
    }
    scratch[(group.z * blocks() + group.y) * p.x.c + ch] = sum;
}

@compute @workgroup_size(WG)
fn norms(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = part.first + id;
    let ch = group.x * WG + lane;
    if ch >= p.x.c { return; }
    let base = group.y * blocks() * p.x.c + ch;
    var sum = 0.0;
    for (var block = 0u; block < blocks(); block++) {
        sum += scratch[base + block * p.x.c];
    }
    scratch[base] = sqrt(sum);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = part.first + id;
    let c = p.x.c;
    let base = group.y * blocks() * c;
    var sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) { sum += scratch[base + ch]; }
    let mean = group_sum(lane, sum) / f32(c);
    let ch = group.x * WG + lane;
    if ch < c {
        let learned = element(gamma[word(ch, gamma_kind)], ch, gamma_kind);
        out[group.y * c + ch] = 1.0 + learned * scratch[base + ch] / (mean + p.eps);
    }
}
