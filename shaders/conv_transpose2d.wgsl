// conv_transpose2d: every input pixel adds its window to the output
//
// x       [n, h, w, c] f32, arena                                 binding 2
// weight  [c, o, kh, kw] f32, f16 or bf16                         binding 3
// bias    [o], likewise, optional                                 binding 4
// out     [n, (h - 1)*stride + kh - 2*padding, .., o] f32, arena  binding 1
//
// Output pixels whose distance from the padded corner leaves the same rests by `stride` (a phase) are reached by
// the same elements of the window, one in `stride` each way. So each phase is a matrix product of its own, with
// neither zeros between the inputs nor sums in memory: rows are the phase's pixels, k runs over its part of
// the window and over channels.
//
// Launch     one group of 8 x 8 lanes per TILE_M pixels (y) and TILE_N outputs (x); a lane has 8 pixels x 8 outputs.
//            A tile holds pixels of one phase, so there may be a few more tiles than groups: groups take turns.
// Memory     x is read about kh*kw / stride^2 * ceil(o / TILE_N) times a phase, mostly from cache; y is written once.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 8.5 KiB of workgroup memory.
// Tunables   none: the tile of a lane is spelled out, because arrays indexed at run time leave the registers.
// Reference  src/ops/conv_transpose2d.rs
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

// Pixels of a phase in one image, (lines, columns); those past the output's edge are not stored.
fn extent() -> vec2<u32> {
    return (vec2(p.out.h, p.out.w) + p.stride - 1u) / p.stride;
}

// The input pixel that reaches pixel `row` of a phase by one element of the window, or OUTSIDE. `offset`: the
// one that reaches the phase's first pixel by it; above or left of the input is far below it.
fn source(row: u32, offset: vec2<u32>) -> u32 {
    let size = extent();
    let image = row / (size.x * size.y);
    let line = row / size.y % size.x + offset.x;
    let column = row % size.y + offset.y;
    let inside = image < p.out.n && line < p.x.h && column < p.x.w;
    return select(OUTSIDE, (image * p.x.h + line) * p.x.w + column, inside);
}

fn load_x(pixel: u32, channel: u32) -> f32 {
    if pixel == OUTSIDE || channel >= p.x.c { return 0.0; }
    return x[pixel * p.x.c + channel];
}

fn load_w(o: u32, channel: u32, tap: u32) -> f32 {
    if o >= p.out.c || channel >= p.x.c { return 0.0; }
    let i = (channel * p.out.c + o) * p.weight.w * p.weight.c + tap;
    return element(weight[word(i, weight_kind)], i, weight_kind);
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let o0 = group.x * TILE_N;
    let size = extent();
    let tiles = (p.out.n * size.x * size.y + TILE_M - 1u) / TILE_M; // of one phase
    // What this lane brings into the tiles: four pixels and four outputs, every fourth channel.
    let four = lane / 4u;
    let o = o0 + 4u * four;

    for (var tile = group.y; tile < tiles * p.stride * p.stride; tile += groups.y) {
        let corner = tile / tiles / vec2(p.stride, 1u) % p.stride; // the phase's first output pixel, (line, column)
        let row0 = tile % tiles * TILE_M;
        let row = row0 + 4u * four;
        // Sums of pixels 4y..4y+4 and 32+4y..: l for outputs 4x..4x+4, r for 32+4x...
        var l0 = vec4(0.0); var l1 = vec4(0.0); var l2 = vec4(0.0); var l3 = vec4(0.0);
        var l4 = vec4(0.0); var l5 = vec4(0.0); var l6 = vec4(0.0); var l7 = vec4(0.0);
        var r0 = vec4(0.0); var r1 = vec4(0.0); var r2 = vec4(0.0); var r3 = vec4(0.0);
        var r4 = vec4(0.0); var r5 = vec4(0.0); var r6 = vec4(0.0); var r7 = vec4(0.0);

        // Only every stride-th element of the window reaches this phase; further into the window is further back
        // in the input. Channels are the inner loop: that is how they lie in x.
        let reach = (corner + p.padding) / p.stride;
        for (var ky = (corner.x + p.padding) % p.stride; ky < p.weight.w; ky += p.stride) {
            for (var kx = (corner.y + p.padding) % p.stride; kx < p.weight.c; kx += p.stride) {
                let offset = reach - vec2(ky, kx) / p.stride;
                let tap = ky * p.weight.c + kx;
                let pixel = vec4(
                    source(row, offset), source(row + 1u, offset), source(row + 2u, offset), source(row + 3u, offset));
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
            let image = row / (size.x * size.y);
            let line = row / size.y % size.x * p.stride + corner.x;
            let column = row % size.y * p.stride + corner.y;
            let inside = image < p.out.n && line < p.out.h && column < p.out.w;
            for (var j = 0u; j < 8u; j++) {
                let o = o0 + j / 4u * 32u + 4u * at.x + j % 4u;
                if inside && o < p.out.c {
                    var v = select(l, r, j >= 4u)[j % 4u];
                    if bias_kind != ABSENT { v += element(bias[word(o, bias_kind)], o, bias_kind); }
                    out[((image * p.out.h + line) * p.out.w + column) * p.out.c + o] = v;
                }
            }
        }
    }
}
