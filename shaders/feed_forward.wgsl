// feed_forward: y = x + g5*(W2*gelu(W0*(LN(x)*(1 + g3) + g4) + b0) + b2), g = gammas
//
// x        [n, h, w, c] f32, arena               binding 2; in `out` where in place
// gammas   [6] f32, f16 or bf16                  binding 3
// w0       [m, c] likewise                       binding 4
// b0       [m] likewise                          binding 5
// w2       [c, m] likewise                       binding 6
// b2       [c] likewise                          binding 7
// scratch  [n*h*w, m] f32: the hidden activations  binding 12
// out      [n, h, w, c] f32, arena               binding 1
//
// Launch     hidden: one workgroup of WG lanes per pixel; main: one lane per output.
// Memory     W0 and W2 are read once per pixel: slow, and only for widths that no published model has.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/feed_forward.rs
override WG: u32 = 64u;

@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read> w0: array<u32>;
@group(0) @binding(5) var<storage, read> b0: array<u32>;
@group(0) @binding(6) var<storage, read> w2: array<u32>;
@group(0) @binding(7) var<storage, read> b2: array<u32>;
@group(0) @binding(12) var<storage, read_write> scratch: array<f32>;

fn load_x(i: u32) -> f32 {
    if x_kind == IN_PLACE { return out[i]; }
    return x[i];
}

@compute @workgroup_size(WG)
fn hidden(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = part.first.x + id.x;
    let c = p.x.c;
    let m = p.w0.w;
    if row >= p.x.n * p.x.h * p.x.w { return; }
    let first = row * c;

    var sum = 0.0;
    for (var k = 0u; k < c; k++) { sum += load_x(first + k); }
    let mean = sum / f32(c);
    sum = 0.0;
    for (var k = 0u; k < c; k++) {
        let d = load_x(first + k) - mean;
        sum += d * d;
    }
    let scale = inverseSqrt(sum / f32(c) + p.eps) * (1.0 + gamma(3u));
    let shift = gamma(4u);

    for (var o = lane; o < m; o += WG) {
        sum = element(b0[word(o, b0_kind)], o, b0_kind);
        for (var k = 0u; k < c; k++) {
            let at = o * c + k;
            sum += ((load_x(first + k) - mean) * scale + shift) * element(w0[word(at, w0_kind)], at, w0_kind);
        }
        scratch[row * m + o] = apply(GELU_ERF, sum);
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let c = p.x.c;
    let m = p.w0.w;
    if i >= p.x.n * p.x.h * p.x.w * c { return; }
    let first = i / c * m;
    let o = i % c;
    var sum = element(b2[word(o, b2_kind)], o, b2_kind);
    for (var k = 0u; k < m; k++) {
        let at = o * m + k;
        sum += scratch[first + k] * element(w2[word(at, w2_kind)], at, w2_kind);
    }
    out[i] = load_x(i) + gamma(5u) * sum;
}
