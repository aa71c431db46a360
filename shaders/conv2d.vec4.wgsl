// conv2d, for channels that are multiples of four
//
// Operands and result are those of conv2d.wgsl.
//
// Launch     one workgroup of 8 x 8 lanes per TILE_M pixels (y) and TILE_N channels (x); a lane has 8 pixels x 8 channels.
// Memory     as conv2d.wgsl, with x in vec4. Weights are loaded one by one, because channels are not contiguous in them.
// Numerics   f32; weights are widened exactly.
// Needs      channels, in and out, that are multiples of 4; 8 KiB of workgroup memory.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/conv2d.rs

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    let row = row0 + four_of(lane);
    let image = row / (p.out.h * p.out.w);
    let line = row / p.out.w % p.out.h * p.stride - p.padding;
    let pixels = Pixels(
        image * (p.x.h * p.x.w), select(vec4(NOWHERE), line, image < vec4(p.out.n)), row % p.out.w * p.stride - p.padding);
    let size = p.weight.w * p.weight.c;
    let taps = Taps(vec2(p.weight.w, p.weight.c), 1u, 0u, p.weight.c, 1u);
    var acc = Accumulator();
    convolve(&acc, at, lane, pixels, taps, Strides(p.x.c * size, size), o0);

    for (var i = 0u; i < 8u; i++) {
        let row = row0 + tile_row(at, i);
        for (var half = 0u; half < 2u; half++) {
            let o = o0 + tile_output(at, 4u * half);
            if row < p.out.n * p.out.h * p.out.w && o < p.out.c {
                out[(row * p.out.c + o) / 4u] = add_bias(results_of(&acc, i, half), o);
            }
        }
    }
}
