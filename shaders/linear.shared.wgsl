// Shared by the variants of linear that load single elements: operands, their loads with the fused prologue, and the
// fused epilogue.

@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;
@group(0) @binding(5) var<storage, read_write> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> scale: array<f32>;
@group(0) @binding(7) var<storage, read> shift: array<u32>;
@group(0) @binding(8) var<storage, read_write> table: array<f32>;
@group(0) @binding(9) var<storage, read_write> counter: array<u32>;

// x*scale + shift; zero past the end of a row. A row past the last is clamped to the last; its results are not stored.
// `scales` is the offset of the scales of the row's image.
fn load_x(row: u32, scales: u32, k: u32) -> f32 {
    if k >= p.x.c { return 0.0; }
    var v = x[min(row, rows() - 1u) * p.x.c + k];
    if scale_kind != ABSENT { v *= scale[scales + k]; }
    if shift_kind != ABSENT { v += element(shift[word(k, shift_kind)], k, shift_kind); }
    return v;
}

// Weights of output channel o at k and k + 1, from one word if they share it; zero past the end of a row. A channel past the
// last is clamped to the last; its results are not stored.
fn load_w(o: u32, k: u32) -> vec2<f32> {
    if k >= p.x.c { return vec2(0.0); }
    let i = min(o, p.out.c - 1u) * p.x.c + k;
    if weight_kind != F32 && p.x.c % 2u == 0u { return elements(weight[i / 2u], weight_kind); }
    let first = element(weight[word(i, weight_kind)], i, weight_kind);
    if k + 1u == p.x.c { return vec2(first, 0.0); }
    return vec2(first, element(weight[word(i + 1u, weight_kind)], i + 1u, weight_kind));
}

// The fused epilogue: bias, activation function, residual, timestep modulation.
fn epilogue(row: u32, o: u32, dot: f32) -> f32 {
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
        let ab = (image * p.table.w + min(counter[0], p.table.w - 1u)) * p.table.c + o;
        v = v * (1.0 + table[ab]) + table[ab + p.out.c];
    }
    return v;
}
