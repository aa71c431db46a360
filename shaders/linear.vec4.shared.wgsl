// Shared by the variants of linear that load four elements at a time, which takes K and the number of output channels to be
// multiples of four: operands, loads without branches, and the fused epilogue.

@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> residual: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> scale: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> shift: array<vec2<u32>>;
@group(0) @binding(8) var<storage, read_write> table: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> counter: array<u32>;

// In these, i counts vec4. Weights stay as they are stored until they are used, so that nothing waits for a load.
fn load_w(i: u32) -> vec4<u32> {
    if weight_kind == F32 { return vec4(weight[2u * i], weight[2u * i + 1u]); }
    return vec4(weight[i], 0u, 0u);
}

fn load_shift(i: u32) -> vec4<u32> {
    if shift_kind == F32 { return vec4(shift[2u * i], shift[2u * i + 1u]); }
    return vec4(shift[i], 0u, 0u);
}

fn load_bias(i: u32) -> vec4<u32> {
    if bias_kind == F32 { return vec4(bias[2u * i], bias[2u * i + 1u]); }
    return vec4(bias[i], 0u, 0u);
}

// x*scale + shift
fn prologue(v: vec4<f32>, scale: vec4<f32>, shift: vec4<u32>) -> vec4<f32> {
    var y = v;
    if scale_kind != ABSENT { y *= scale; }
    if shift_kind != ABSENT { y += four_elements(shift, shift_kind); }
    return y;
}

// The fused epilogue of channels o to o + 3: bias, activation function, residual, timestep modulation.
fn epilogue(row: u32, o: u32, dot: vec4<f32>) -> vec4<f32> {
    let at = (row * p.out.c + o) / 4u;
    var v = dot;
    if bias_kind != ABSENT { v += four_elements(load_bias(o / 4u), bias_kind); }
    v = vec4(apply(p.function, v.x), apply(p.function, v.y), apply(p.function, v.z), apply(p.function, v.w));
    if residual_kind == IN_PLACE {
        v += out[at];
    } else if residual_kind != ABSENT {
        v += residual[at];
    }
    if table_kind != ABSENT {
        let image = select(row / (p.out.h * p.out.w), 0u, p.table.n == 1u);
        let ab = ((image * p.table.w + min(counter[0], p.table.w - 1u)) * p.table.c + o) / 4u;
        v = v * (1.0 + table[ab]) + table[ab + p.out.c / 4u];
    }
    return v;
}
