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
// Launch     one group of TILE_N lanes per TILE_M rows (y) and TILE_N outputs (x); a lane has 8 rows of one output.
// Memory     x is read ceil(o / TILE_N) times; W ceil(rows / TILE_M) times, each lane a row of it, from cache;
//            y is written once.
// Numerics   f32; weights are widened exactly.
// Needs      subgroups, of any width. A lane holds one x of each row, and the others ask it for that: no
//            barrier and no tile. Meant for processors whose lanes are a vector register, where asking is free.
// Tunables   TILE_N, a multiple of the subgroup's width or a divisor of it.
// Reference  src/ops/linear.rs
const TILE_M: u32 = 8u;
override TILE_N: u32 = 64u;
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

// x*scale + shift; zero past the end of a row. Rows past the last are the last again, and not stored.
// `scales`: where the row's image has its scales.
fn load_x(row: u32, scales: u32, k: u32) -> f32 {
    if k >= p.x.c { return 0.0; }
    var v = x[min(row, p.out.n * p.out.h * p.out.w - 1u) * p.x.c + k];
    if scale_kind != ABSENT { v *= scale[scales + k]; }
    if shift_kind != ABSENT { v += element(shift[word(k, shift_kind)], k, shift_kind); }
    return v;
}

// Weights of one output for k and k + 1, out of one word where they share it; zero past the end of a row.
fn load_w(o: u32, k: u32) -> vec2<f32> {
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

@compute @workgroup_size(TILE_N)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_size) subgroup: u32,
    @builtin(subgroup_invocation_id) here: u32,
) {
    let row0 = group.y * TILE_M;
    let o = group.x * TILE_N + lane;
    let column = min(o, p.out.c - 1u); // every lane stays, for the others ask it
    let width = min(subgroup, TILE_N);
    let scales0 = (row0 + vec4(0u, 1u, 2u, 3u)) / (p.x.h * p.x.w) * p.x.c;
    let scales4 = (row0 + vec4(4u, 5u, 6u, 7u)) / (p.x.h * p.x.w) * p.x.c;
    var s0 = 0.0; var s1 = 0.0; var s2 = 0.0; var s3 = 0.0;
    var s4 = 0.0; var s5 = 0.0; var s6 = 0.0; var s7 = 0.0;

    for (var k0 = 0u; k0 < p.x.c; k0 += width) {
        let x0 = load_x(row0, scales0.x, k0 + here);
        let x1 = load_x(row0 + 1u, scales0.y, k0 + here);
        let x2 = load_x(row0 + 2u, scales0.z, k0 + here);
        let x3 = load_x(row0 + 3u, scales0.w, k0 + here);
        let x4 = load_x(row0 + 4u, scales4.x, k0 + here);
        let x5 = load_x(row0 + 5u, scales4.y, k0 + here);
        let x6 = load_x(row0 + 6u, scales4.z, k0 + here);
        let x7 = load_x(row0 + 7u, scales4.w, k0 + here);
        for (var j = 0u; j < min(width, p.x.c - k0); j += 2u) {
            let w = load_w(column, k0 + j);
            s0 = fma(subgroupShuffle(x0, j), w.x, fma(subgroupShuffle(x0, j + 1u), w.y, s0));
            s1 = fma(subgroupShuffle(x1, j), w.x, fma(subgroupShuffle(x1, j + 1u), w.y, s1));
            s2 = fma(subgroupShuffle(x2, j), w.x, fma(subgroupShuffle(x2, j + 1u), w.y, s2));
            s3 = fma(subgroupShuffle(x3, j), w.x, fma(subgroupShuffle(x3, j + 1u), w.y, s3));
            s4 = fma(subgroupShuffle(x4, j), w.x, fma(subgroupShuffle(x4, j + 1u), w.y, s4));
            s5 = fma(subgroupShuffle(x5, j), w.x, fma(subgroupShuffle(x5, j + 1u), w.y, s5));
            s6 = fma(subgroupShuffle(x6, j), w.x, fma(subgroupShuffle(x6, j + 1u), w.y, s6));
            s7 = fma(subgroupShuffle(x7, j), w.x, fma(subgroupShuffle(x7, j + 1u), w.y, s7));
        }
    }

    // One row at a time, so that `finish` is there once and not 8 times.
    for (var i = 0u; i < TILE_M; i++) {
        var s = s0;
        switch i {
            case 1u: { s = s1; }
            case 2u: { s = s2; }
            case 3u: { s = s3; }
            case 4u: { s = s4; }
            case 5u: { s = s5; }
            case 6u: { s = s6; }
            case 7u: { s = s7; }
            default: {}
        }
        let row = row0 + i;
        if row < p.out.n * p.out.h * p.out.w && o < p.out.c { out[row * p.out.c + o] = finish(row, o, s); }
    }
}
