// layer_norm: y = (x - mean) / sqrt(var + eps) over the channels, then y·first + bias per channel,
// or y·(1 + first[0]) + first[1]
//
// x       [n, h, w, c] f32, arena; in `out` where in place       binding 2
// first   [c] weight or [6] gammas, learned, or absent           binding 3
// bias    [c] learned, read where the affine map is per channel  binding 4
// out     [n, h, w, c] f32, arena                                binding 1
//
// Launch     one group of WG lanes per row, which stride over the channels.
// Memory     reads x three times, the last two from cache; writes y once.
// Numerics   f32, one partial sum per lane. The mean comes first: E[x²] - E[x]² would lose the
//            variance where the mean is large.
// Needs      nothing optional. WG is a power of two.
// Tunables   WG.
// Reference  src/ops/layer_norm.rs
override WG: u32 = 128u;
@id(0) override x_kind: u32;
@id(1) override first_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, first: Shape, bias: Shape, eps: f32, affine: u32 }

// ops::Affine
const CHANNELS: u32 = 1u;
const GAMMAS: u32 = 2u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> first: array<u32>;
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

fn value(i: u32) -> f32 {
    if x_kind == IN_PLACE { return out[i]; }
    return x[i];
}

fn first_at(i: u32) -> f32 {
    return element(first[word(i, first_kind)], i, first_kind);
}

fn affine(v: f32, ch: u32) -> f32 {
    switch p.affine {
        case CHANNELS: { return v * first_at(ch) + element(bias[word(ch, bias_kind)], ch, bias_kind); }
        case GAMMAS: { return v * (1.0 + first_at(0u)) + first_at(1u); }
        default: { return v; }
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    if row >= p.out.n * p.out.h * p.out.w { return; }
    let c = p.out.c;
    let base = row * c;

    var sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) { sum += value(base + ch); }
    let mean = group_sum(lane, sum) / f32(c);

    sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) {
        let d = value(base + ch) - mean;
        sum += d * d;
    }
    let rstd = inverseSqrt(group_sum(lane, sum) / f32(c) + p.eps);

    for (var ch = lane; ch < c; ch += WG) {
        out[base + ch] = affine((value(base + ch) - mean) * rstd, ch);
    }
}
