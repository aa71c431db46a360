// conv_transpose2d: every input pixel adds its multiple of the kernel to the output
//
// x       [n, h, w, c] f32, arena                                 binding 2
// weight  [c, o, kh, kw] f32, f16 or bf16                         binding 3
// bias    [o], likewise, optional                                 binding 4
// out     [n, (h - 1)*stride + kh - 2*padding, .., o] f32, arena  binding 1
//
// Output pixels whose distance from the padded corner leaves the same remainders modulo `stride` form a residue class; all of
// them use the same taps of the kernel, one in `stride` along each axis. So each class is an implicit GEMM of its own,
// without zeros between the inputs and without atomic additions: rows are the class's pixels, K runs over its taps and
// the input channels.
//
// Launch     one workgroup of 8 x 8 lanes per TILE_M pixels (y) and TILE_N channels (x); a lane has 8 pixels x 8 channels.
//            A tile holds pixels of one class, so there may be a few more tiles than workgroups, which loop over them.
// Memory     x is read about kh*kw / stride^2 * ceil(o / TILE_N) times per class, mostly from cache; y is written once.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 8 KiB of workgroup memory.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/conv_transpose2d.rs

// Size of the largest class in one image, (rows, columns). In smaller classes the last ones lie past the output's edge and
// are not stored.
fn extent() -> vec2<u32> {
    return (vec2(p.out.h, p.out.w) + p.stride - 1u) / p.stride;
}

// The input pixel that contributes to pixel `row` of a class by one tap, or OUTSIDE. `offset` is the input pixel that does
// so for the class's first pixel. Coordinates above or left of the input wrap around and fail the bounds test.
fn source(row: u32, offset: vec2<u32>) -> u32 {
    let size = extent();
    let image = row / (size.x * size.y);
    let line = row / size.y % size.x + offset.x;
    let column = row % size.y + offset.y;
    let inside = image < p.out.n && line < p.x.h && column < p.x.w;
    return select(OUTSIDE, (image * p.x.h + line) * p.x.w + column, inside);
}

fn load_w(o: u32, channel: u32, tap: u32) -> f32 {
    if o >= p.out.c || channel >= p.x.c { return 0.0; }
    let i = (channel * p.out.c + o) * p.weight.w * p.weight.c + tap;
    return element(weight[word(i, weight_kind)], i, weight_kind);
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let o0 = group.x * TILE_N;
    let size = extent();
    let tiles = (p.out.n * size.x * size.y + TILE_M - 1u) / TILE_M; // per class
    let groups = (p.out.n * p.out.h * p.out.w + TILE_M - 1u) / TILE_M; // along y
    // What this lane loads into the tiles: four pixels and four output channels, every fourth input channel.
    let four = lane / 4u;
    let o = o0 + 4u * four;

    for (var tile = group.y; tile < tiles * p.stride * p.stride; tile += groups) {
        let corner = tile / tiles / vec2(p.stride, 1u) % p.stride; // the class's first output pixel, (row, column)
        let row0 = tile % tiles * TILE_M;
        let row = row0 + 4u * four;
        var acc = Accumulator();

        // Only every stride-th tap contributes to this class; a later tap reads an earlier input pixel. Channels are the
        // inner loop, because they are contiguous in x.
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
                        put_x(place(i, four), vec4(
                            load_x(pixel.x, k), load_x(pixel.y, k), load_x(pixel.z, k), load_x(pixel.w, k)));
                        put_w(place(i, four), vec4(
                            load_w(o, k, tap), load_w(o + 1u, k, tap), load_w(o + 2u, k, tap), load_w(o + 3u, k, tap)));
                    }
                    workgroupBarrier();
                    multiply_tiles(&acc, at);
                    workgroupBarrier();
                }
            }
        }

        for (var i = 0u; i < 8u; i++) {
            let row = row0 + tile_row(at, i);
            let image = row / (size.x * size.y);
            let line = row / size.y % size.x * p.stride + corner.x;
            let column = row % size.y * p.stride + corner.y;
            let inside = image < p.out.n && line < p.out.h && column < p.out.w;
            for (var j = 0u; j < 8u; j++) {
                let o = o0 + tile_output(at, j);
                if inside && o < p.out.c {
                    var v = result_of(&acc, i, j);
                    if bias_kind != ABSENT { v += element(bias[word(o, bias_kind)], o, bias_kind); }
                    out[((image * p.out.h + line) * p.out.w + column) * p.out.c + o] = v;
                }
            }
        }
    }
}
