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
// Launch     one group of 8 x 8 lanes per TILE_M pixels (y) and TILE_N outputs (x); a lane has 4 pixels x 4 outputs.
//            A tile holds pixels of one phase, so there may be a few more tiles than groups: groups take turns.
// Memory     x is read about kh*kw / stride^2 * ceil(o / TILE_N) times a phase, mostly from cache; y is written once.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 4.5 KiB of workgroup memory.
// Tunables   none: the tile of a lane is spelled out, because arrays indexed at run time leave the registers.
// Reference  src/ops/conv_transpose2d.rs
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

// What a phase's tiles need to know.
struct Phase {
    corner: vec2<u32>, // its first output pixel, (y, x)
    first: vec2<u32>,  // the window's first element that reaches it
    taps: vec2<u32>,   // how many elements do, each way
    source: vec2<u32>, // the input pixel that reaches the corner by `first`
}

fn phase(index: u32) -> Phase {
    let corner = vec2(index / p.stride, index % p.stride);
    let padded = corner + p.padding;
    let first = padded % p.stride;
    let window = vec2(p.weight.w, p.weight.c);
    // Zero where the window is narrower than the stride and this phase lies between windows.
    return Phase(corner, first, (window + p.stride - 1u - first) / p.stride, padded / p.stride);
}

// Pixels of a phase in one image, (rows, columns); those past the output's edge are not stored.
fn extent() -> vec2<u32> {
    return (vec2(p.out.h, p.out.w) + p.stride - 1u) / p.stride;
}

// Element k of what reaches pixel `row` of a phase, channels fastest: that is how they lie in x.
fn load_x(at: Phase, row: u32, k: u32) -> f32 {
    let size = extent();
    let tap = k / p.x.c;
    let image = row / (size.x * size.y);
    if image >= p.out.n || tap >= at.taps.x * at.taps.y { return 0.0; }
    // Further into the window is further back in the input. Below zero is far above.
    let y = row / size.y % size.x + at.source.x - tap / at.taps.y;
    let z = row % size.y + at.source.y - tap % at.taps.y;
    if y >= p.x.h || z >= p.x.w { return 0.0; }
    return x[((image * p.x.h + y) * p.x.w + z) * p.x.c + k % p.x.c];
}

// The weight that load_x(.., k) is multiplied by.
fn load_w(at: Phase, o: u32, k: u32) -> f32 {
    let tap = k / p.x.c;
    if o >= p.out.c || tap >= at.taps.x * at.taps.y { return 0.0; }
    let y = at.first.x + tap / at.taps.y * p.stride;
    let z = at.first.y + tap % at.taps.y * p.stride;
    let i = ((k % p.x.c * p.out.c + o) * p.weight.w + y) * p.weight.c + z;
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

    for (var tile = group.y; tile < tiles * p.stride * p.stride; tile += groups.y) {
        let phase = phase(tile / tiles);
        let row0 = tile % tiles * TILE_M;
        // Sums of pixels 4y..4y+4, outputs 4x..4x+4.
        var s0 = vec4(0.0); var s1 = vec4(0.0); var s2 = vec4(0.0); var s3 = vec4(0.0);

        for (var k0 = 0u; k0 < phase.taps.x * phase.taps.y * p.x.c; k0 += TILE_K) {
            for (var i = lane; i < TILE_K * TILE_M / 4u; i += 64u) {
                let k = i % TILE_K;
                let four = i / TILE_K;
                let row = row0 + 4u * four;
                tile_x[k * STRIDE + four] = vec4(
                    load_x(phase, row, k0 + k), load_x(phase, row + 1u, k0 + k),
                    load_x(phase, row + 2u, k0 + k), load_x(phase, row + 3u, k0 + k));
                let o = o0 + 4u * four;
                tile_w[k * STRIDE + four] = vec4(
                    load_w(phase, o, k0 + k), load_w(phase, o + 1u, k0 + k),
                    load_w(phase, o + 2u, k0 + k), load_w(phase, o + 3u, k0 + k));
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
            let image = row / (size.x * size.y);
            let y = row / size.y % size.x * p.stride + phase.corner.x;
            let z = row % size.y * p.stride + phase.corner.y;
            if image >= p.out.n || y >= p.out.h || z >= p.out.w { continue; }
            for (var j = 0u; j < 4u; j++) {
                let o = o0 + 4u * at.x + j;
                if o >= p.out.c { continue; }
                var v = s[j];
                if bias_kind != ABSENT { v += element(bias[word(o, bias_kind)], o, bias_kind); }
                out[((image * p.out.h + y) * p.out.w + z) * p.out.c + o] = v;
            }
        }
    }
}
