// resample: bilinear, aligned corners: output pixel o of m samples input position o·(n - 1)/(m - 1) of n
//
// x       [n, h, w, c] f32, arena           binding 2
// out     [n, height, width, c] f32, arena  binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup.
// Memory     reads four values per lane, mostly from cache; writes out once.
// Numerics   f32. Source positions are computed in f32 and in PyTorch's order of operations.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/resample.rs
override WG: u32 = 64u;

struct Params { out: Shape, x: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

struct Source { first: u32, second: u32, fraction: f32 }

// The input pixels that output pixel o of m interpolates along an axis of n, and the weight of the second.
fn source(o: u32, m: u32, n: u32) -> Source {
    var at = 0.0;
    if m > 1u { at = f32(n - 1u) / f32(m - 1u) * f32(o); }
    let first = min(u32(at), n - 1u);
    return Source(first, min(first + 1u, n - 1u), at - f32(first));
}

// Interpolates between two columns of the image row that begins at pixel `line`, at channel ch.
fn across(line: u32, columns: Source, ch: u32) -> f32 {
    let left = x[(line + columns.first) * p.x.c + ch];
    let right = x[(line + columns.second) * p.x.c + ch];
    return left * (1.0 - columns.fraction) + right * columns.fraction;
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w * p.out.c { return; }
    let ch = i % p.out.c;
    let pixel = i / p.out.c;
    let line = pixel / p.out.w;
    let rows = source(line % p.out.h, p.out.h, p.x.h);
    let columns = source(pixel % p.out.w, p.out.w, p.x.w);
    let image = line / p.out.h * p.x.h;
    let top = across((image + rows.first) * p.x.w, columns, ch);
    let bottom = across((image + rows.second) * p.x.w, columns, ch);
    out[i] = top * (1.0 - rows.fraction) + bottom * rows.fraction;
}
