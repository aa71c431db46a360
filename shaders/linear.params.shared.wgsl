// Shared by all variants of linear: its parameters, and how operands are stored.

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

fn rows() -> u32 { return p.out.n * p.out.h * p.out.w; }

// Offsets of the scales of the images of four rows; a row past the last is clamped to the last.
fn scales_of(row: vec4<u32>) -> vec4<u32> { return min(row, vec4(rows() - 1u)) / (p.x.h * p.x.w) * p.x.c; }
