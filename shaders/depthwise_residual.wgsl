// depthwise_residual: y = x + gammas[2]·(bias[ch] + sum over i, j of t[row + i - k/2, col + j - k/2, ch]·w[ch, i, j]),
// with w the weight and t extended by repeating its edge
//
// x       [n, h, w, c] f32, arena; in `out` where in place  binding 2
// t       [n, h, w, c] f32, arena                           binding 3
// weight  [c, 1, k, k] learned, k odd                       binding 4
// bias    [c] learned                                       binding 5
// gammas  [6] learned                                       binding 6
// out     [n, h, w, c] f32, arena                           binding 1
//
// Launch     one lane per element, WG lanes per workgroup.
// Memory     reads t k² times, all but once from cache; reads x and writes y once.
// Numerics   f32; one accumulator for the k² taps.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/depthwise_residual.rs
override WG: u32 = 64u;
@id(0) override x_kind: u32;
@id(2) override weight_kind: u32;
@id(3) override bias_kind: u32;
@id(4) override gammas_kind: u32;

struct Params { out: Shape, x: Shape, t: Shape, weight: Shape, bias: Shape, gammas: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> t: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<u32>;
@group(0) @binding(6) var<storage, read> gammas: array<u32>;

// Coordinate `at`, moved by tap `offset` of a kernel that is 2·half + 1 wide, and clamped to 0..size.
fn inside(at: u32, offset: u32, half: u32, size: u32) -> u32 {
    return min(max(at + offset, half) - half, size - 1u);
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w * p.out.c { return; }
    let ch = i % p.out.c;
    let col = i / p.out.c % p.out.w;
    let line = i / p.out.c / p.out.w;
    let row = line % p.out.h;
    let image = line - row;
    let k = p.weight.w;
    var sum = element(bias[word(ch, bias_kind)], ch, bias_kind);
    for (var ky = 0u; ky < k; ky++) {
        let y = image + inside(row, ky, k / 2u, p.out.h);
        for (var kx = 0u; kx < k; kx++) {
            let q = inside(col, kx, k / 2u, p.out.w);
            let at = (ch * k + ky) * k + kx;
            let v = t[(y * p.out.w + q) * p.out.c + ch];
            sum += v * element(weight[word(at, weight_kind)], at, weight_kind);
        }
    }
    sum *= element(gammas[word(2u, gammas_kind)], 2u, gammas_kind);
    if x_kind == IN_PLACE {
        out[i] = out[i] + sum;
    } else {
        out[i] = x[i] + sum;
    }
}
