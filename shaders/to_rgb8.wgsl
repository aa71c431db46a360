// to_rgb8: y = round(255·clamp(x, 0, 1)) as bytes, NaN as 0, cropped to out's size
//
// x       [n, h, w, 3] f32, arena, bound as bits                                                             binding 2
// out     [n, height, width, 1] u32, arena; red in the lowest byte, then green and blue; the highest is 255  binding 1
//
// Launch     one lane per pixel of out, WG lanes per workgroup.
// Memory     reads the part of x that is kept once, writes out once.
// Numerics   f32; rounds ties to even, written out because not every driver's round does so (Mesa's software one does not
//            with vectors wider than the CPU's). NaN is detected by its bits, because compilers may assume that no f32 is
//            NaN.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/to_rgb8.rs
override WG: u32 = 64u;

struct Params { out: Shape, x: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<u32>;

fn byte(bits: u32) -> u32 {
    if (bits & 0x7fffffffu) > 0x7f800000u { return 0u; }
    let value = 255.0 * clamp(bitcast<f32>(bits), 0.0, 1.0);
    let below = u32(value);
    let rest = value - f32(below);
    return below + u32(rest > 0.5 || (rest == 0.5 && (below & 1u) == 1u));
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    if i >= p.out.n * p.out.h * p.out.w { return; }
    let line = i / p.out.w;
    let row = line / p.out.h * p.x.h + line % p.out.h; // a row index over all images
    let at = (row * p.x.w + i % p.out.w) * 3u;
    out[i] = byte(x[at]) | (byte(x[at + 1u]) << 8u) | (byte(x[at + 2u]) << 16u) | 0xff000000u;
}
