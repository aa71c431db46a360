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
// Launch     one group of 8 x 8 lanes per TILE_N outputs: 8 lanes (x) share the sums over k of one output (y), for
//            ROWS rows at a time.
// Memory     W is read ceil(rows / ROWS) times, by neighbouring lanes side by side; x ceil(o / TILE_N) times, from
//            cache; y is written once. With few rows the time is that of reading W.
// Numerics   f32; weights are widened exactly; a sum over k is 8 partial sums.
// Needs      nothing optional. Right for any number of rows, meant for few.
// Tunables   none: the sums of a lane are spelled out.
// Reference  src/ops/linear.rs
const TILE_N: u32 = 8u;
const ROWS: u32 = 4u;
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

var<workgroup> partial: array<vec4<f32>, 64>; // [TILE_N][8], ROWS rows in each

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

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let rows = p.out.n * p.out.h * p.out.w;
    let o = group.x * TILE_N + at.y;
    let column = min(o, p.out.c - 1u); // every lane stays, for the barriers
    for (var row0 = 0u; row0 < rows; row0 += ROWS) {
        let row = row0 + vec4(0u, 1u, 2u, 3u);
        let scales = row / (p.x.h * p.x.w) * p.x.c;
        var sum = vec4(0.0);
        for (var k = 2u * at.x; k < p.x.c; k += 16u) {
            let w = load_w(column, k);
            let x0 = vec4(
                load_x(row.x, scales.x, k), load_x(row.y, scales.y, k),
                load_x(row.z, scales.z, k), load_x(row.w, scales.w, k));
            let x1 = vec4(
                load_x(row.x, scales.x, k + 1u), load_x(row.y, scales.y, k + 1u),
                load_x(row.z, scales.z, k + 1u), load_x(row.w, scales.w, k + 1u));
            sum = fma(w.yyyy, x1, fma(w.xxxx, x0, sum));
        }
        partial[lane] = sum;
        workgroupBarrier();
        // The first ROWS of the lanes that share an output finish a row each.
        if at.x < ROWS && row0 + at.x < rows && o < p.out.c {
            var dot = 0.0;
            for (var i = 0u; i < 8u; i++) { dot += partial[8u * at.y + i][at.x]; }
            out[(row0 + at.x) * p.out.c + o] = finish(row0 + at.x, o, dot);
        }
        workgroupBarrier();
    }
}
