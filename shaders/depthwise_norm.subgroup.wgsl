// depthwise_norm, a subgroup per pixel: no barrier, and no lane idle where there are few channels
//
// Operands and result are those of depthwise_norm.wgsl.
//
// Launch     one group of WG lanes per ROWS pixels, which its subgroups take in turn: neighbours share a cache.
// Memory     as depthwise_norm.wgsl.
// Numerics   as depthwise_norm.wgsl.
// Needs      subgroups of any width.
// Tunables   WG, a multiple of the width; ROWS.
// Reference  src/ops/depthwise_norm.rs
override WG: u32 = 256u;
override ROWS: u32 = 8u;
@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

// v of one channel of a pixel.
fn convolve(pixel: u32, ch: u32) -> f32 {
    let col = pixel % p.out.w;
    let line = pixel / p.out.w;
    let row = line % p.out.h;
    let image = line - row;
    let k = p.weight.w;
    var sum = element(bias[word(ch, bias_kind)], ch, bias_kind);
    for (var ky = 0u; ky < k; ky++) {
        let y = row + ky - k / 2u; // above x: wraps around to more than h
        if y >= p.out.h { continue; }
        for (var kx = 0u; kx < k; kx++) {
            let q = col + kx - k / 2u;
            if q >= p.out.w { continue; }
            let at = (ch * k + ky) * k + kx;
            let v = x[((image + y) * p.out.w + q) * p.out.c + ch];
            sum += v * element(weight[word(at, weight_kind)], at, weight_kind);
        }
    }
    return sum;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let c = p.out.c;
    let begin = (group.x + group.y * groups.x) * ROWS;
    let end = min(begin + ROWS, p.out.n * p.out.h * p.out.w);
    for (var pixel = begin + subgroup; pixel < end; pixel += subgroups) {
        let base = pixel * c;

        var sum = 0.0;
        for (var ch = lane; ch < c; ch += width) {
            let v = convolve(pixel, ch);
            out[base + ch] = v;
            sum += v;
        }
        let mean = subgroupAdd(sum) / f32(c);

        sum = 0.0;
        for (var ch = lane; ch < c; ch += width) {
            let d = out[base + ch] - mean;
            sum += d * d;
        }
        let rstd = inverseSqrt(subgroupAdd(sum) / f32(c) + p.eps);

        for (var ch = lane; ch < c; ch += width) {
            out[base + ch] = (out[base + ch] - mean) * rstd;
        }
    }
}
