// feed_forward: y = x + g5*(W2*gelu(W0*(LN(x)*(1 + g3) + g4) + b0) + b2), g = gammas
//
// x       [n, h, w, c] f32, arena             binding 2; in `out` where in place
// gammas  [6] f32, f16 or bf16                binding 3
// w0      [m, c] likewise                     binding 4
// b0      [m] likewise                        binding 5
// w2      [c, m] likewise                     binding 6
// b2      [c] likewise                        binding 7
// out     [n, h, w, c] f32, arena             binding 1
//
// Launch     one workgroup of WG lanes per ROWS pixels. For each CHUNK hidden channels a lane first computes 4 channels x
//            4 rows, then adds their contribution to its COLUMNS output channels (WG apart) of all rows.
// Memory     x is read three times, the last two from cache; W0 and W2 once per workgroup; y is written once. The hidden
//            activations exist one chunk at a time, in workgroup memory.
// Numerics   f32; mean and variance in two passes; weights are widened exactly.
// Needs      c at most C_MAX; 16 KiB of workgroup memory.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/feed_forward.rs
const WG: u32 = 64u;
const ROWS: u32 = 8u;
const CHUNK: u32 = 128u;
const COLUMNS: u32 = 6u;
const C_MAX: u32 = 384u; // WG * COLUMNS

var<workgroup> normed: array<vec4<f32>, 768>; // [C_MAX][2], rows 0..4 and 4..8
var<workgroup> hidden: array<vec4<f32>, 256>; // [CHUNK][2], rows 0..4 and 4..8; before that, partial sums of the norm

// A row past the last is clamped to the last; its results are not stored.
fn load_x(row: u32, k: u32) -> f32 {
    let i = min(row, p.out.n * p.out.h * p.out.w - 1u) * p.out.c + k;
    if x_kind == IN_PLACE { return out[i]; }
    return x[i];
}

// W0[o, k] and W0[o, k + 1], from one word if they share it; zero past the end of a row. An output past the last is clamped
// to the last; its results are not used.
fn load_w0(o: u32, k: u32) -> vec2<f32> {
    let i = min(o, p.w0.w - 1u) * p.w0.c + k;
    if w0_kind != F32 && p.w0.c % 2u == 0u { return elements(w0[i / 2u], w0_kind); }
    let first = element(w0[word(i, w0_kind)], i, w0_kind);
    if k + 1u == p.w0.c { return vec2(first, 0.0); }
    return vec2(first, element(w0[word(i + 1u, w0_kind)], i + 1u, w0_kind));
}

// The same for W2.
fn load_w2(o: u32, k: u32) -> vec2<f32> {
    let i = min(o, p.w2.w - 1u) * p.w2.c + k;
    if w2_kind != F32 && p.w2.c % 2u == 0u { return elements(w2[i / 2u], w2_kind); }
    let first = element(w2[word(i, w2_kind)], i, w2_kind);
    if k + 1u == p.w2.c { return vec2(first, 0.0); }
    return vec2(first, element(w2[word(i + 1u, w2_kind)], i + 1u, w2_kind));
}

// Four neighbouring rows.
fn load_rows(row: u32, k: u32) -> vec4<f32> {
    return vec4(load_x(row, k), load_x(row + 1u, k), load_x(row + 2u, k), load_x(row + 3u, k));
}

fn gelu(v: vec4<f32>) -> vec4<f32> {
    return vec4(apply(GELU_ERF, v.x), apply(GELU_ERF, v.y), apply(GELU_ERF, v.z), apply(GELU_ERF, v.w));
}

// Sum over the lanes that share rows, returned in each of them.
fn row_sum(lane: u32, v: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    hidden[lane] = v;
    workgroupBarrier();
    var sum = vec4(0.0);
    for (var i = lane % 2u; i < WG; i += 2u) { sum += hidden[i]; }
    return sum;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row0 = (part.first.x + id.x) * ROWS;
    let rows = p.out.n * p.out.h * p.out.w;
    if row0 >= rows { return; }
    let c = p.out.c;

    // The norm: even lanes handle rows 0..4, odd lanes rows 4..8.
    let half = lane % 2u;
    let row = row0 + 4u * half;
    var v = vec4(0.0);
    for (var k = lane / 2u; k < c; k += WG / 2u) { v += load_rows(row, k); }
    let mean = row_sum(lane, v) / f32(c);
    v = vec4(0.0);
    for (var k = lane / 2u; k < c; k += WG / 2u) {
        let d = load_rows(row, k) - mean;
        v += d * d;
    }
    let factor = inverseSqrt(row_sum(lane, v) / f32(c) + p.eps) * (1.0 + gamma(3u));
    for (var k = lane / 2u; k < c; k += WG / 2u) {
        normed[2u * k + half] = (load_rows(row, k) - mean) * factor + gamma(4u);
    }
    workgroupBarrier();

    // Accumulators of output channels lane + WG*i: a for rows 0..4, d for rows 4..8.
    var a0 = vec4(0.0); var a1 = vec4(0.0); var a2 = vec4(0.0);
    var a3 = vec4(0.0); var a4 = vec4(0.0); var a5 = vec4(0.0);
    var d0 = vec4(0.0); var d1 = vec4(0.0); var d2 = vec4(0.0);
    var d3 = vec4(0.0); var d4 = vec4(0.0); var d5 = vec4(0.0);
    for (var j0 = 0u; j0 < p.w0.w; j0 += CHUNK) {
        // Hidden channels j, j + 32, j + 64 and j + 96 of the four rows that this lane normalised.
        let j = j0 + lane / 2u;
        var s0 = vec4(0.0); var s1 = vec4(0.0); var s2 = vec4(0.0); var s3 = vec4(0.0);
        for (var k = 0u; k < c; k += 2u) {
            let t = normed[2u * k + half];
            let u = normed[2u * min(k + 1u, c - 1u) + half]; // its weight is zero if k + 1 does not exist
            let w0 = load_w0(j, k);
            let w1 = load_w0(j + 32u, k);
            let w2 = load_w0(j + 64u, k);
            let w3 = load_w0(j + 96u, k);
            s0 = fma(w0.yyyy, u, fma(w0.xxxx, t, s0));
            s1 = fma(w1.yyyy, u, fma(w1.xxxx, t, s1));
            s2 = fma(w2.yyyy, u, fma(w2.xxxx, t, s2));
            s3 = fma(w3.yyyy, u, fma(w3.xxxx, t, s3));
        }
        for (var i = 0u; i < 4u; i++) {
            var s = s0;
            switch i {
                case 1u: { s = s1; }
                case 2u: { s = s2; }
                case 3u: { s = s3; }
                default: {}
            }
            let at = min(j + 32u * i, p.w0.w - 1u);
            hidden[lane + WG * i] = gelu(s + element(b0[word(at, b0_kind)], at, b0_kind));
        }
        workgroupBarrier();
        for (var k = 0u; k < min(CHUNK, p.w0.w - j0); k += 2u) {
            let h0 = hidden[2u * k];
            let h1 = hidden[2u * k + 1u];
            let i0 = hidden[2u * k + 2u];
            let i1 = hidden[2u * k + 3u];
            var w = load_w2(lane, j0 + k);
            a0 = fma(w.yyyy, i0, fma(w.xxxx, h0, a0));
            d0 = fma(w.yyyy, i1, fma(w.xxxx, h1, d0));
            if c > WG {
                w = load_w2(lane + WG, j0 + k);
                a1 = fma(w.yyyy, i0, fma(w.xxxx, h0, a1));
                d1 = fma(w.yyyy, i1, fma(w.xxxx, h1, d1));
                w = load_w2(lane + 2u * WG, j0 + k);
                a2 = fma(w.yyyy, i0, fma(w.xxxx, h0, a2));
                d2 = fma(w.yyyy, i1, fma(w.xxxx, h1, d2));
            }
            if c > 3u * WG {
                w = load_w2(lane + 3u * WG, j0 + k);
                a3 = fma(w.yyyy, i0, fma(w.xxxx, h0, a3));
                d3 = fma(w.yyyy, i1, fma(w.xxxx, h1, d3));
                w = load_w2(lane + 4u * WG, j0 + k);
                a4 = fma(w.yyyy, i0, fma(w.xxxx, h0, a4));
                d4 = fma(w.yyyy, i1, fma(w.xxxx, h1, d4));
                w = load_w2(lane + 5u * WG, j0 + k);
                a5 = fma(w.yyyy, i0, fma(w.xxxx, h0, a5));
                d5 = fma(w.yyyy, i1, fma(w.xxxx, h1, d5));
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < COLUMNS; i++) {
        let o = lane + i * WG;
        if o >= c { break; }
        var a = a0;
        var b = d0;
        switch i {
            case 1u: { a = a1; b = d1; }
            case 2u: { a = a2; b = d2; }
            case 3u: { a = a3; b = d3; }
            case 4u: { a = a4; b = d4; }
            case 5u: { a = a5; b = d5; }
            default: {}
        }
        let bias = element(b2[word(o, b2_kind)], o, b2_kind);
        for (var r = 0u; r < min(ROWS, rows - row0); r++) {
            let sum = select(a, b, r >= 4u)[r % 4u] + bias;
            out[(row0 + r) * c + o] = load_x(row0 + r, o) + gamma(5u) * sum;
        }
    }
}
