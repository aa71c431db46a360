// Shared by the variants of feed_forward: parameters, and how operands are stored.

@id(0) override x_kind: u32;
@id(1) override gammas_kind: u32;
@id(2) override w0_kind: u32;
@id(3) override b0_kind: u32;
@id(4) override w2_kind: u32;
@id(5) override b2_kind: u32;

struct Params { out: Shape, x: Shape, gammas: Shape, w0: Shape, b0: Shape, w2: Shape, b2: Shape, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> gammas: array<u32>;

fn gamma(i: u32) -> f32 {
    return element(gammas[word(i, gammas_kind)], i, gammas_kind);
}
