// conv2d: convolution with zero padding as an implicit GEMM: rows are output pixels, K runs over taps and channels
//
// x       [n, h, w, c] f32, arena                                   binding 2
// weight  [o, c, kh, kw] f32, f16 or bf16                           binding 3
// bias    [o], likewise, optional                                   binding 4
// out     [n, (h + 2*padding - kh) / stride + 1, .., o] f32, arena  binding 1
//
// Launch     one workgroup of 8 x 8 lanes per TILE_M pixels (y) and TILE_N channels (x); a lane has 8 pixels x 8 channels.
// Memory     x is read about kh*kw / stride^2 * ceil(o / TILE_N) times, mostly from cache; y is written once. The im2col
//            rows are gathered one tile at a time and never materialised in memory.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 8 KiB of workgroup memory.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/conv2d.rs

// The input pixel under tap (ky, kx) of output pixel `row`, or OUTSIDE.
fn source(row: u32, ky: u32, kx: u32) -> u32 {
    let image = row / (p.out.h * p.out.w);
    // Coordinates above or left of the input wrap around to large values and fail the bounds test.
    let line = row / p.out.w % p.out.h * p.stride + ky - p.padding;
    let column = row % p.out.w * p.stride + kx - p.padding;
    let inside = image < p.out.n && line < p.x.h && column < p.x.w;
    return select(OUTSIDE, (image * p.x.h + line) * p.x.w + column, inside);
}

fn load_w(o: u32, channel: u32, tap: u32) -> f32 {
    if o >= p.out.c || channel >= p.x.c { return 0.0; }
    let i = (o * p.x.c + channel) * p.weight.w * p.weight.c + tap;
    return element(weight[word(i, weight_kind)], i, weight_kind);
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    var acc = Accumulator();

    // What this lane loads into the tiles: four pixels and four output channels, every fourth input channel.
    let four = lane / 4u;
    let row = row0 + 4u * four;
    let o = o0 + 4u * four;

    // Channels are the inner loop, because they are contiguous in x and the pixels are the same for all of them.
    for (var tap = 0u; tap < p.weight.w * p.weight.c; tap++) {
        let ky = tap / p.weight.c;
        let kx = tap % p.weight.c;
        let pixel = vec4(
            source(row, ky, kx), source(row + 1u, ky, kx), source(row + 2u, ky, kx), source(row + 3u, ky, kx));
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

    for (var i = 0u; i < 8u; i++) {
        let row = row0 + tile_row(at, i);
        for (var j = 0u; j < 8u; j++) {
            let o = o0 + tile_output(at, j);
            if row < p.out.n * p.out.h * p.out.w && o < p.out.c {
                var v = result_of(&acc, i, j);
                if bias_kind != ABSENT { v += element(bias[word(o, bias_kind)], o, bias_kind); }
                out[row * p.out.c + o] = v;
            }
        }
    }
}
