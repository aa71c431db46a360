// depthwise_norm: v[row, col, ch] = bias[ch] + sum over i, j of x[row + i - k/2, col + j - k/2, ch]·weight[ch, i, j],
// zero outside of x; y = (v - mean) / sqrt(var + eps) over the channels
//
// x       [n, h, w, c] f32, arena                      binding 2
// weight  [c, 1, k, k] learned, k odd                  binding 3
// bias    [c] learned                                  binding 4
// out     [n, h, w, c] f32, arena; holds v in between  binding 1
//
// Launch     one group of WG lanes per pixel, which stride over the channels.
// Memory     reads x k² times, all but once from cache; writes out twice, and each lane reads back its own v,
//            from cache.
// Numerics   f32, one partial sum per lane, the mean before the variance.
// Needs      nothing optional. WG is a power of two.
// Tunables   WG.
// Reference  src/ops/depthwise_norm.rs
override WG: u32 = 128u;
@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

var<workgroup> partial: array<f32, WG>;

// Sum of v over the group, the same in every lane.
fn group_sum(lane: u32, v: f32) -> f32 {
    partial[lane] = v;
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width { partial[lane] += partial[lane + width]; }
    }
    return workgroupUniformLoad(&partial[0]);
}

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
    @builtin(local_invocation_index) lane: u32,
) {
    let pixel = group.x + group.y * groups.x;
    if pixel >= p.out.n * p.out.h * p.out.w { return; }
    let c = p.out.c;
    let base = pixel * c;

    var sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) {
        let v = convolve(pixel, ch);
        out[base + ch] = v;
        sum += v;
    }
    let mean = group_sum(lane, sum) / f32(c);

    sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) {
        let d = out[base + ch] - mean;
        sum += d * d;
    }
    let rstd = inverseSqrt(group_sum(lane, sum) / f32(c) + p.eps);

    for (var ch = lane; ch < c; ch += WG) {
        out[base + ch] = (out[base + ch] - mean) * rstd;
    }
}
