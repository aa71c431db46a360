// philox: standard normal noise, counter-based: Philox4x32-10, then Box-Muller
//
// seed     [2] u32: low and high half of the first image's seed; image k has it plus k; arena  binding 2
// counter  [1] u32: the step, whose noise is draw 1 + step; if absent, draw 0; arena           binding 3
// out      [n, h, w, c] f32, arena                                                             binding 1
//
// Launch     one lane per element of out, WG lanes per workgroup; the four lanes that share a Philox counter each
//            compute all its words.
// Memory     writes out once.
// Numerics   f32: the definition's polynomials, because WGSL guarantees little accuracy for its log, sin and cos.
// Needs      nothing optional.
// Tunables   WG.
// Reference  src/ops/philox.rs
override WG: u32 = 64u;
@id(1) override counter_kind: u32;

struct Params { out: Shape, seed: Shape, counter: Shape, stream: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> seed: array<u32>;
@group(0) @binding(3) var<storage, read_write> counter: array<u32>;

// Upper half of the 64-bit product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let left = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let right = (a & 0xffffu) * (b >> 16u) + (left & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (left >> 16u) + (right >> 16u);
}

// ln x for a normal x in (0, 1]; the polynomial of noise/polynomial.rs.
fn natural_log(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    var m = bitcast<f32>((bits & 0x007fffffu) | 0x3f000000u); // [0.5, 1)
    let low = m < 0.70710678118654752;
    let e = f32(i32(bits >> 23u) - 126) - select(0.0, 1.0, low);
    m = (m - 1.0) + select(0.0, m, low);
    let z = m * m;
    var y = 7.0376836292e-2;
    y = fma(y, m, -1.1514610310e-1);
    y = fma(y, m, 1.1676998740e-1);
    y = fma(y, m, -1.2420140846e-1);
    y = fma(y, m, 1.4249322787e-1);
    y = fma(y, m, -1.6668057665e-1);
    y = fma(y, m, 2.0000714765e-1);
    y = fma(y, m, -2.4999993993e-1);
    y = fma(y, m, 3.3333331174e-1);
    y = fma(y * m, z, e * -2.12194440e-4);
    return fma(e, 0.693359375, m + fma(z, -0.5, y));
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let size = p.out.h * p.out.w * p.out.c;
    if i >= p.out.n * size { return; }
    let image = i / size;
    let element = i % size;
    var k0 = seed[0] + image;
    var k1 = seed[1] + select(0u, 1u, k0 < image);
    var x = vec4(element / 4u, 0u, p.stream, 0u);
    if counter_kind != ABSENT { x.y = counter[0] + 1u; }
    for (var round = 0; round < 10; round++) {
        let high = vec2(multiply_high(x.x, 0xd2511f53u), multiply_high(x.z, 0xcd9e8d57u));
        x = vec4(high.y ^ x.y ^ k0, x.z * 0xcd9e8d57u, high.x ^ x.w ^ k1, x.x * 0xd2511f53u);
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    // Two words give a pair of normals: one is the radius, the other the angle, reduced by its nearest quarter turns.
    let second = (element & 2u) != 0u;
    let radius = sqrt(-2.0 * natural_log(f32((select(x.x, x.z, second) >> 8u) + 1u) * 5.9604644775390625e-8));
    let angle = select(x.y, x.w, second) >> 8u;
    let quarters = (angle + (1u << 21u)) >> 22u;
    let t = f32(i32(angle) - i32(quarters << 22u)) * (6.2831855 * 5.9604644775390625e-8);
    let z = t * t;
    var c = fma(2.443315711809948e-5, z, -1.388731625493765e-3);
    c = fma(c, z, 4.166664568298827e-2) * z;
    c = fma(c, z, -(0.5 * z)) + 1.0;
    var s = fma(-1.9515295891e-4, z, 8.3321608736e-3);
    s = fma(s, z, -1.6666654611e-1) * z;
    s = fma(s, t, t);
    let turns = quarters + (element & 1u) * 3u; // sin t = cos(t - a quarter turn)
    let side = select(c, s, (turns & 1u) != 0u);
    out[i] = radius * select(side, -side, ((turns + 1u) & 2u) != 0u);
}
