// Shared by both convolutions.

const OUTSIDE: u32 = 0xffffffffu;
@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, stride: u32, padding: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

// A channel of an input pixel; zero for OUTSIDE.
fn load_x(pixel: u32, channel: u32) -> f32 {
    if pixel == OUTSIDE || channel >= p.x.c { return 0.0; }
    return x[pixel * p.x.c + channel];
}
