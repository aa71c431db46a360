// conv2d: convolution with zero padding, as a matrix product: rows are output pixels, k runs over window and channels
//
// x       [n, h, w, c] f32, arena                                 binding 2
// weight  [o, c, kh, kw] f32, f16 or bf16                         binding 3
// bias    [o], likewise, optional                                 binding 4
// out     [n, (h + 2*padding - kh) / stride + 1, .., o] f32, arena  binding 1
//
// Launch     one group of 8 x 8 lanes per TILE_M pixels (y) and TILE_N outputs (x); a lane has 4 pixels x 4 outputs.
// Memory     x is read about kh*kw / stride^2 * ceil(o / TILE_N) times, mostly from cache; y is written once. The
//            windows are gathered a tile at a time and never lie side by side in memory.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 4.5 KiB of workgroup memory.
// Tunables   none: the tile of a lane is spelled out, because arrays indexed at run time leave the registers.
// Reference  src/ops/conv2d.rs
const TILE_M: u32 = 32u;
const TILE_N: u32 = 32u;
const TILE_K: u32 = 16u;
const STRIDE: u32 = 9u; // vec4s of one k in a tile, and one more so that neighbouring k lie in other banks
@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, stride: u32, padding: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

var<workgroup> tile_x: array<vec4<f32>, 144>; // [TILE_K][STRIDE], four pixels in each
var<workgroup> tile_w: array<vec4<f32>, 144>; // [TILE_K][STRIDE], four outputs in each

// Element k of the window of an output pixel, channels fastest: that is how they lie in x.
fn load_x(row: u32, k: u32) -> f32 {
    let window = k / p.x.c;
    let top = row / p.out.w % p.out.h * p.stride + window / p.weight.c;
    let left = row % p.out.w * p.stride + window % p.weight.c;
    // Padded coordinates; those outside the input are zero. Below zero is far above.
    let y = top - p.padding;
    let z = left - p.padding;
    let image = row / (p.out.h * p.out.w);
    if image >= p.out.n || window >= p.weight.w * p.weight.c || y >= p.x.h || z >= p.x.w { return 0.0; }
    return x[((image * p.x.h + y) * p.x.w + z) * p.x.c + k % p.x.c];
}

// The weight that load_x(.., k) is multiplied by.
fn load_w(o: u32, k: u32) -> f32 {
    let windows = p.weight.w * p.weight.c;
    if o >= p.out.c || k >= windows * p.x.c { return 0.0; }
    let i = (o * p.x.c + k % p.x.c) * windows + k / p.x.c;
    return element(weight[word(i, weight_kind)], i, weight_kind);
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    // Sums of pixels 4y..4y+4, outputs 4x..4x+4.
    var s0 = vec4(0.0); var s1 = vec4(0.0); var s2 = vec4(0.0); var s3 = vec4(0.0);

    for (var k0 = 0u; k0 < p.weight.w * p.weight.c * p.x.c; k0 += TILE_K) {
        for (var i = lane; i < TILE_K * TILE_M / 4u; i += 64u) {
            let k = i % TILE_K;
            let four = i / TILE_K;
            let row = row0 + 4u * four;
            tile_x[k * STRIDE + four] = vec4(
                load_x(row, k0 + k), load_x(row + 1u, k0 + k), load_x(row + 2u, k0 + k), load_x(row + 3u, k0 + k));
            let o = o0 + 4u * four;
            tile_w[k * STRIDE + four] = vec4(
                load_w(o, k0 + k), load_w(o + 1u, k0 + k), load_w(o + 2u, k0 + k), load_w(o + 3u, k0 + k));
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE_K; k++) {
            let a = tile_x[k * STRIDE + at.y];
            let w = tile_w[k * STRIDE + at.x];
            s0 = fma(a.xxxx, w, s0);
            s1 = fma(a.yyyy, w, s1);
            s2 = fma(a.zzzz, w, s2);
            s3 = fma(a.wwww, w, s3);
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < 4u; i++) {
        var s = s0;
        switch i {
            case 1u: { s = s1; }
            case 2u: { s = s2; }
            case 3u: { s = s3; }
            default: {}
        }
        let row = row0 + 4u * at.y + i;
        for (var j = 0u; j < 4u; j++) {
            let o = o0 + 4u * at.x + j;
            if row >= p.out.n * p.out.h * p.out.w || o >= p.out.c { continue; }
            var v = s[j];
            if bias_kind != ABSENT { v += element(bias[word(o, bias_kind)], o, bias_kind); }
            out[row * p.out.c + o] = v;
        }
    }
}
