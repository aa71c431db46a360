// depthwise_conv: y[row, col, ch] = sum over i, j of x[row·stride + i - k/2, col·stride + j - k/2, ch]·w[ch, i, j],
// with w the weight and x zero outside the image
//
// x       [n, h, w, c] f32, arena                                binding 2
// weight  [c, 1, k, k] learned, k odd                            binding 3
// out     [n, ceil(h / stride), ceil(w / stride), c] f32, arena  binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads x k² times, all but once from cache; writes out once.
// Numerics   f32; one accumulator for the k² taps.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/depthwise_conv.rs
override WG: u32 = 64u;
@id(1) override weight_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, stride: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w * p.out.c { return; }
    let ch = i % p.out.c;
    let col = i / p.out.c % p.out.w;
    let line = i / p.out.c / p.out.w;
    let row = line % p.out.h;
    let image = line / p.out.h * p.x.h;
    let k = p.weight.w;
    var sum = 0.0;
    for (var ky = 0u; ky < k; ky++) {
        let y = row * p.stride + ky - k / 2u; // above the image it wraps around to a large value
        if y >= p.x.h { continue; }
        for (var kx = 0u; kx < k; kx++) {
            let q = col * p.stride + kx - k / 2u;
            if q >= p.x.w { continue; }
            let at = (ch * k + ky) * k + kx;
            let v = x[((image + y) * p.x.w + q) * p.x.c + ch];
            sum += v * element(weight[word(at, weight_kind)], at, weight_kind);
        }
    }
    out[i] = sum;
}
