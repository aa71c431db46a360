// linear: y = f((x*scale + shift)*W^T + bias) + residual, then y*(1 + a) + b
//
// x         [n, h, w, k] f32, arena                     binding 2
// weight    [o, k] f32, f16 or bf16                     binding 3
// bias      [o], likewise, optional                     binding 4
// residual  [n, h, w, o] f32, arena, optional           binding 5; in `out` where in place
// scale     [n, 1, 1, k] f32, arena, optional           binding 6
// shift     [k] as weight, only with scale, optional    binding 7
// table     [n or 1, 1, steps, 2o] f32, arena, optional binding 8; a and b side by side
// counter   [1, 1, 1, 1] u32, arena, with table         binding 9; the step
// out       [n, h, w, o] f32, arena                     binding 1
//
// Launch     one group of 8 x 8 lanes per TILE_M rows (y) and TILE_N outputs (x); a lane has 8 rows x 8 outputs.
// Memory     x is read ceil(o / TILE_N) times, W ceil(rows / TILE_M) times; y is written once.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 8.5 KiB of workgroup memory.
// Tunables   none: the tile of a lane is spelled out, because arrays indexed at run time leave the registers.
// Reference  src/ops/linear.rs
const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const STRIDE: u32 = 17u; // vec4s of one k in a tile, and one more so that neighbouring k lie in other banks
@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;
@id(3) override residual_kind: u32;
@id(4) override scale_kind: u32;
@id(5) override shift_kind: u32;
@id(6) override table_kind: u32;

struct Params {
    out: Shape, x: Shape, weight: Shape, bias: Shape, residual: Shape, scale: Shape, shift: Shape, table: Shape,
    counter: Shape, function: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;
@group(0) @binding(5) var<storage, read_write> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> scale: array<f32>;
@group(0) @binding(7) var<storage, read> shift: array<u32>;
@group(0) @binding(8) var<storage, read_write> table: array<f32>;
@group(0) @binding(9) var<storage, read_write> counter: array<u32>;

var<workgroup> tile_x: array<vec4<f32>, 272>; // [TILE_K][STRIDE], four rows in each
var<workgroup> tile_w: array<vec4<f32>, 272>; // [TILE_K][STRIDE], four outputs in each

// x*scale + shift; zero outside, so that nothing is added there. `scales`: where the row's image has its scales.
fn load_x(row: u32, scales: u32, k: u32) -> f32 {
    if row >= p.out.n * p.out.h * p.out.w || k >= p.x.c { return 0.0; }
    var v = x[row * p.x.c + k];
    if scale_kind != ABSENT { v *= scale[scales + k]; }
    if shift_kind != ABSENT { v += element(shift[word(k, shift_kind)], k, shift_kind); }
    return v;
}

// Weights of one output for k and k + 1, out of one word where they share it; zero outside.
fn load_w(o: u32, k: u32) -> vec2<f32> {
    if o >= p.out.c || k >= p.x.c { return vec2(0.0); }
    let i = o * p.x.c + k;
    if weight_kind != F32 && p.x.c % 2u == 0u { return elements(weight[i / 2u], weight_kind); }
    let first = element(weight[word(i, weight_kind)], i, weight_kind);
    if k + 1u == p.x.c { return vec2(first, 0.0); }
    return vec2(first, element(weight[word(i + 1u, weight_kind)], i + 1u, weight_kind));
}

// What rides on the product.
fn finish(row: u32, o: u32, dot: f32) -> f32 {
    var v = dot;
    if bias_kind != ABSENT { v += element(bias[word(o, bias_kind)], o, bias_kind); }
    v = apply(p.function, v);
    if residual_kind == IN_PLACE {
        v += out[row * p.out.c + o];
    } else if residual_kind != ABSENT {
        v += residual[row * p.out.c + o];
    }
    if table_kind != ABSENT {
        let image = select(row / (p.out.h * p.out.w), 0u, p.table.n == 1u);
        let ab = (image * p.table.w + counter[0]) * p.table.c + o;
        v = v * (1.0 + table[ab]) + table[ab + p.out.c];
    }
    return v;
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    // Sums of rows 4y..4y+4 and 32+4y..: l for outputs 4x..4x+4, r for 32+4x...
    var l0 = vec4(0.0); var l1 = vec4(0.0); var l2 = vec4(0.0); var l3 = vec4(0.0);
    var l4 = vec4(0.0); var l5 = vec4(0.0); var l6 = vec4(0.0); var l7 = vec4(0.0);
    var r0 = vec4(0.0); var r1 = vec4(0.0); var r2 = vec4(0.0); var r3 = vec4(0.0);
    var r4 = vec4(0.0); var r5 = vec4(0.0); var r6 = vec4(0.0); var r7 = vec4(0.0);

    // What this lane brings into the tiles: four rows and four outputs, every fourth k.
    let four = lane / 4u;
    let row = row0 + 4u * four + vec4(0u, 1u, 2u, 3u);
    let scales = row / (p.x.h * p.x.w) * p.x.c;
    let o = o0 + 4u * four;

    for (var k0 = 0u; k0 < p.x.c; k0 += TILE_K) {
        for (var i = lane % 4u; i < TILE_K; i += 4u) {
            let k = k0 + i;
            tile_x[i * STRIDE + four] = vec4(
                load_x(row.x, scales.x, k), load_x(row.y, scales.y, k),
                load_x(row.z, scales.z, k), load_x(row.w, scales.w, k));
        }
        for (var i = lane % 4u * 2u; i < TILE_K; i += 8u) {
            let w0 = load_w(o, k0 + i);
            let w1 = load_w(o + 1u, k0 + i);
            let w2 = load_w(o + 2u, k0 + i);
            let w3 = load_w(o + 3u, k0 + i);
            tile_w[i * STRIDE + four] = vec4(w0.x, w1.x, w2.x, w3.x);
            tile_w[(i + 1u) * STRIDE + four] = vec4(w0.y, w1.y, w2.y, w3.y);
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE_K; k++) {
            let a = tile_x[k * STRIDE + at.y];
            let b = tile_x[k * STRIDE + 8u + at.y];
            let l = tile_w[k * STRIDE + at.x];
            let r = tile_w[k * STRIDE + 8u + at.x];
            l0 = fma(a.xxxx, l, l0); r0 = fma(a.xxxx, r, r0);
            l1 = fma(a.yyyy, l, l1); r1 = fma(a.yyyy, r, r1);
            l2 = fma(a.zzzz, l, l2); r2 = fma(a.zzzz, r, r2);
            l3 = fma(a.wwww, l, l3); r3 = fma(a.wwww, r, r3);
            l4 = fma(b.xxxx, l, l4); r4 = fma(b.xxxx, r, r4);
            l5 = fma(b.yyyy, l, l5); r5 = fma(b.yyyy, r, r5);
            l6 = fma(b.zzzz, l, l6); r6 = fma(b.zzzz, r, r6);
            l7 = fma(b.wwww, l, l7); r7 = fma(b.wwww, r, r7);
        }
        workgroupBarrier();
    }

    // One row at a time, so that `finish` is there once and not 64 times.
    for (var i = 0u; i < 8u; i++) {
        var l = l0;
        var r = r0;
        switch i {
            case 1u: { l = l1; r = r1; }
            case 2u: { l = l2; r = r2; }
            case 3u: { l = l3; r = r3; }
            case 4u: { l = l4; r = r4; }
            case 5u: { l = l5; r = r5; }
            case 6u: { l = l6; r = r6; }
            case 7u: { l = l7; r = r7; }
            default: {}
        }
        let row = row0 + i / 4u * 32u + 4u * at.y + i % 4u;
        for (var j = 0u; j < 8u; j++) {
            let o = o0 + j / 4u * 32u + 4u * at.x + j % 4u;
            if row < p.out.n * p.out.h * p.out.w && o < p.out.c {
                out[row * p.out.c + o] = finish(row, o, select(l, r, j >= 4u)[j % 4u]);
            }
        }
    }
}
