// pixel_unshuffle: y[row, col, ch·k² + i·k + j] = x[row·k + i, col·k + j, ch]
//
// x       [n, h·k, w·k, c] f32, arena  binding 2; rows and columns that do not fill a patch are ignored
// out     [n, h, w, c·k²] f32, arena   binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads x once, with a stride of its channels; writes out once.
// Numerics   exact: values are copied.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/pixel_unshuffle.rs
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
    let k = p.side;
    let pixel = i / p.out.c;
    let image = pixel / (p.out.h * p.out.w);
    let row = pixel / p.out.w % p.out.h * k + ch / k % k;
    let col = pixel % p.out.w * k + ch % k;
    out[i] = x[((image * p.x.h + row) * p.x.w + col) * p.x.c + ch / (k * k)];
}
