// Shared by the variants of feed_forward.

@id(0) override x_kind: u32;
@id(1) override gammas_kind: u32;
@id(2) override w0_kind: u32;
@id(3) override b0_kind: u32;
@id(4) override w2_kind: u32;
@id(5) override b2_kind: u32;

struct Params { out: Shape, x: Shape, gammas: Shape, w0: Shape, b0: Shape, w2: Shape, b2: Shape, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> gammas: array<u32>;
@group(0) @binding(4) var<storage, read> w0: array<u32>;
@group(0) @binding(5) var<storage, read> b0: array<u32>;
@group(0) @binding(6) var<storage, read> w2: array<u32>;
@group(0) @binding(7) var<storage, read> b2: array<u32>;

fn gamma(i: u32) -> f32 {
    return element(gammas[word(i, gammas_kind)], i, gammas_kind);
}
