// pixel_shuffle: y[row·k + i, col·k + j, ch] = x[row, col, ch·k² + i·k + j]
//
// x       [n, h, w, c·k²] f32, arena   binding 2
// out     [n, h·k, w·k, c] f32, arena  binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads x once, with stride k²; writes out once.
// Numerics   exact: values are copied.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/pixel_shuffle.rs
override WG: u32 = 64u;

struct Params { out: Shape, x: Shape, side: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w * p.out.c { return; }
    let ch = i % p.out.c;
    let col = i / p.out.c % p.out.w;
    let row = i / p.out.c / p.out.w; // a row index over all images, each of which is a whole number of patches
    let k = p.side;
    let pixel = row / k * p.x.w + col / k;
    out[i] = x[pixel * p.x.c + (ch * k + row % k) * k + col % k];
}
