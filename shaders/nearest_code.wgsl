// nearest_code: each pixel becomes the nearest row of a codebook, the first if several are equally near
//
// x       [n, h, w, c] f32, arena  binding 2
// codes   [m, c] learned           binding 3
// out     [n, h, w, c] f32, arena  binding 1
//
// Launch     one lane per pixel, WG lanes per workgroup.
// Memory     reads x once from memory and m times from cache; all lanes read the same code at a time.
// Numerics   f32, squared differences: |a|² - 2ab + |b|² would cancel for near codes.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/nearest_code.rs
override WG: u32 = 64u;
@id(1) override codes_kind: u32;

struct Params { out: Shape, x: Shape, codes: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> codes: array<u32>;

fn code(i: u32) -> f32 {
    return element(codes[word(i, codes_kind)], i, codes_kind);
}

fn distance_to(row: u32, pixel: u32) -> f32 {
    var sum = 0.0;
    for (var ch = 0u; ch < p.out.c; ch++) {
        let d = code(row * p.out.c + ch) - x[pixel * p.out.c + ch];
        sum += d * d;
    }
    return sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let pixel = part.first.x * WG + id.x;
    if pixel >= p.out.n * p.out.h * p.out.w { return; }
    var nearest = 0u;
    var least = distance_to(0u, pixel);
    for (var row = 1u; row < p.codes.w; row++) {
        let d = distance_to(row, pixel);
        if d < least {
            nearest = row;
            least = d;
        }
    }
    for (var ch = 0u; ch < p.out.c; ch++) {
        out[pixel * p.out.c + ch] = code(nearest * p.out.c + ch);
    }
}
