// conv2d: convolution with zero padding, as a matrix product: rows are output pixels, k runs over window and channels
//
// x       [n, h, w, c] f32, arena                                   binding 2
// weight  [o, c, kh, kw] f32, f16 or bf16                           binding 3
// bias    [o], likewise, optional                                   binding 4
// out     [n, (h + 2*padding - kh) / stride + 1, .., o] f32, arena  binding 1
//
// Launch     one group of 8 x 8 lanes per TILE_M pixels (y) and TILE_N outputs (x); a lane has 8 pixels x 8 outputs.
// Memory     x is read about kh*kw / stride^2 * ceil(o / TILE_N) times, mostly from cache; y is written once. The
//            windows are gathered a tile at a time and never lie side by side in memory.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 8.5 KiB of workgroup memory.
// Tunables   none: the tile of a lane is spelled out, because arrays indexed at run time leave the registers.
// Reference  src/ops/conv2d.rs
const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const STRIDE: u32 = 17u; // vec4s of one k in a tile, and one more so that neighbouring k lie in other banks
const OUTSIDE: u32 = 0xffffffffu;
@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, stride: u32, padding: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

var<workgroup> tile_x: array<vec4<f32>, 272>; // [TILE_K][STRIDE], four pixels in each
var<workgroup> tile_w: array<vec4<f32>, 272>; // [TILE_K][STRIDE], four outputs in each

// The input pixel that window element (ky, kx) of output pixel `row` lies on, or OUTSIDE.
fn source(row: u32, ky: u32, kx: u32) -> u32 {
    let image = row / (p.out.h * p.out.w);
    // What is above or left of the input wraps around to far below it.
    let line = row / p.out.w % p.out.h * p.stride + ky - p.padding;
    let column = row % p.out.w * p.stride + kx - p.padding;
    let inside = image < p.out.n && line < p.x.h && column < p.x.w;
    return select(OUTSIDE, (image * p.x.h + line) * p.x.w + column, inside);
}

fn load_x(pixel: u32, channel: u32) -> f32 {
    if pixel == OUTSIDE || channel >= p.x.c { return 0.0; }
    return x[pixel * p.x.c + channel];
}

fn load_w(o: u32, channel: u32, tap: u32) -> f32 {
    if o >= p.out.c || channel >= p.x.c { return 0.0; }
    let i = (o * p.x.c + channel) * p.weight.w * p.weight.c + tap;
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
    // Sums of pixels 4y..4y+4 and 32+4y..: l for outputs 4x..4x+4, r for 32+4x...
    var l0 = vec4(0.0); var l1 = vec4(0.0); var l2 = vec4(0.0); var l3 = vec4(0.0);
    var l4 = vec4(0.0); var l5 = vec4(0.0); var l6 = vec4(0.0); var l7 = vec4(0.0);
    var r0 = vec4(0.0); var r1 = vec4(0.0); var r2 = vec4(0.0); var r3 = vec4(0.0);
    var r4 = vec4(0.0); var r5 = vec4(0.0); var r6 = vec4(0.0); var r7 = vec4(0.0);

    // What this lane brings into the tiles: four pixels and four outputs, every fourth channel.
    let four = lane / 4u;
    let row = row0 + 4u * four;
    let o = o0 + 4u * four;

    // Channels are the inner loop: that is how they lie in x, and the pixels are found once for all.
    for (var tap = 0u; tap < p.weight.w * p.weight.c; tap++) {
        let ky = tap / p.weight.c;
        let kx = tap % p.weight.c;
        let pixel = vec4(
            source(row, ky, kx), source(row + 1u, ky, kx), source(row + 2u, ky, kx), source(row + 3u, ky, kx));
        for (var k0 = 0u; k0 < p.x.c; k0 += TILE_K) {
            for (var i = lane % 4u; i < TILE_K; i += 4u) {
                let k = k0 + i;
                tile_x[i * STRIDE + four] = vec4(
                    load_x(pixel.x, k), load_x(pixel.y, k), load_x(pixel.z, k), load_x(pixel.w, k));
                tile_w[i * STRIDE + four] = vec4(
                    load_w(o, k, tap), load_w(o + 1u, k, tap), load_w(o + 2u, k, tap), load_w(o + 3u, k, tap));
            }
            workgroupBarrier();
            for (var k = 0u; k < TILE_K; k++) {
                let a = tile_x[k * STRIDE + at.y];
                let b = tile_x[k * STRIDE + 8u + at.y];
                let l = tile_w[k * STRIDE + at.x];
                let r = tile_w[k * STRIDE + 8u + at.x];
                l0 = fma(a.xxxx, l, l0); r0 = fma(a.xxxx, r, r0);
                l1 = fma(a.yyyy, l, l1); r1 = fma(a.yyyy, r, r1);
                l2 = fma(a.zzzz, l, l2); r2 = fma(a.zzzz, r, r2);
                l3 = fma(a.wwww, l, l3); r3 = fma(a.wwww, r, r3);
                l4 = fma(b.xxxx, l, l4); r4 = fma(b.xxxx, r, r4);
                l5 = fma(b.yyyy, l, l5); r5 = fma(b.yyyy, r, r5);
                l6 = fma(b.zzzz, l, l6); r6 = fma(b.zzzz, r, r6);
                l7 = fma(b.wwww, l, l7); r7 = fma(b.wwww, r, r7);
            }
            workgroupBarrier();
        }
    }

    for (var i = 0u; i < 8u; i++) {
        var l = l0;
        var r = r0;
        switch i {
            case 1u: { l = l1; r = r1; }
            case 2u: { l = l2; r = r2; }
            case 3u: { l = l3; r = r3; }
            case 4u: { l = l4; r = r4; }
            case 5u: { l = l5; r = r5; }
            case 6u: { l = l6; r = r6; }
            case 7u: { l = l7; r = r7; }
            default: {}
        }
        let row = row0 + i / 4u * 32u + 4u * at.y + i % 4u;
        for (var j = 0u; j < 8u; j++) {
            let o = o0 + j / 4u * 32u + 4u * at.x + j % 4u;
            if row < p.out.n * p.out.h * p.out.w && o < p.out.c {
                var v = select(l, r, j >= 4u)[j % 4u];
                if bias_kind != ABSENT { v += element(bias[word(o, bias_kind)], o, bias_kind); }
                out[row * p.out.c + o] = v;
            }
        }
    }
}
