// Shared by the variants of layer_norm.

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
