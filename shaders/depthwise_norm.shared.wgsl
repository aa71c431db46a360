// Shared by the variants of depthwise_norm.

@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

// The convolution v at one channel of a pixel.
fn convolve(pixel: u32, ch: u32) -> f32 {
    let col = pixel % p.out.w;
    let line = pixel / p.out.w;
    let row = line % p.out.h;
    let image = line - row;
    let k = p.weight.w;
    var sum = element(bias[word(ch, bias_kind)], ch, bias_kind);
    for (var ky = 0u; ky < k; ky++) {
        let y = row + ky - k / 2u; // above the image it wraps around to a large value
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
