// batch_norm: y = f((x - mean) / sqrt(var + eps)·weight + bias), with stored statistics
//
// x       [n, h, w, c] f32, arena; in `out` where in place  binding 2
// mean    [c] learned                                       binding 3
// var     [c] learned                                       binding 4
// weight  [c] learned, absent if bias is                    binding 5
// bias    [c] learned, absent if weight is                  binding 6
// out     [n, h, w, c] f32, arena                           binding 1
//
// Launch     one lane per element, WG lanes per workgroup.
// Memory     reads x once and the vectors from cache, writes y once.
// Numerics   f32.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/batch_norm.rs
override WG: u32 = 64u;
@id(0) override x_kind: u32;
@id(1) override mean_kind: u32;
@id(2) override var_kind: u32;
@id(3) override weight_kind: u32;
@id(4) override bias_kind: u32;

struct Params {
    out: Shape,
    x: Shape,
    mean: Shape,
    variance: Shape,
    weight: Shape,
    bias: Shape,
    eps: f32,
    function: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> mean: array<u32>;
@group(0) @binding(4) var<storage, read> variance: array<u32>;
@group(0) @binding(5) var<storage, read> weight: array<u32>;
@group(0) @binding(6) var<storage, read> bias: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w * p.out.c { return; }
    let c = i % p.out.c;
    var v: f32;
    if x_kind == IN_PLACE { v = out[i]; } else { v = x[i]; }
    v -= element(mean[word(c, mean_kind)], c, mean_kind);
    v /= sqrt(element(variance[word(c, var_kind)], c, var_kind) + p.eps);
    if weight_kind != ABSENT {
        v = v * element(weight[word(c, weight_kind)], c, weight_kind) + element(bias[word(c, bias_kind)], c, bias_kind);
    }
    out[i] = apply(p.function, v);
}
