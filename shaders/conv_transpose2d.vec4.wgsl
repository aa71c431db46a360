// conv_transpose2d, for channels that are multiples of four
//
// Operands and result are those of conv_transpose2d.wgsl, which also explains residue classes.
//
// Launch     one workgroup of 8 x 8 lanes per TILE_M pixels (y) and TILE_N channels (x); a lane has 8 pixels x 8 channels.
//            A tile holds pixels of one class, so there may be a few more tiles than workgroups, which loop over them.
// Memory     as conv_transpose2d.wgsl, with x in vec4. Weights are loaded one by one, because channels are not contiguous
//            in them.
// Numerics   f32; weights are widened exactly.
// Needs      channels, in and out, that are multiples of 4; 8 KiB of workgroup memory.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/conv_transpose2d.rs

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let o0 = group.x * TILE_N;
    // Size of the largest class in one image. In smaller classes the last pixels lie past the output's edge and are not stored.
    let size = (vec2(p.out.h, p.out.w) + p.stride - 1u) / p.stride;
    let tiles = (p.out.n * size.x * size.y + TILE_M - 1u) / TILE_M; // per class
    let groups = (p.out.n * p.out.h * p.out.w + TILE_M - 1u) / TILE_M; // along y
    let kernel = vec2(p.weight.w, p.weight.c);
    let strides = Strides(kernel.x * kernel.y, p.out.c * kernel.x * kernel.y);

    for (var tile = group.y; tile < tiles * p.stride * p.stride; tile += groups) {
        let corner = tile / tiles / vec2(p.stride, 1u) % p.stride; // the class's first output pixel, (row, column)
        let row0 = tile % tiles * TILE_M;
        let row = row0 + four_of(lane);
        let image = row / (size.x * size.y);
        // Only every stride-th tap contributes to this class; a later tap reads an earlier input pixel.
        let reach = (corner + p.padding) / p.stride;
        let first = (corner + p.padding) % p.stride;
        let line = row / size.y % size.x + reach.x;
        let pixels = Pixels(
            image * (p.x.h * p.x.w), select(vec4(NOWHERE), line, image < vec4(p.out.n)), row % size.y + reach.y);
        let taps = Taps(
            (max(kernel, first) - first + p.stride - 1u) / p.stride, 0xffffffffu, first.x * kernel.y + first.y,
            p.stride * kernel.y, p.stride);
        var acc = Accumulator();
        convolve(&acc, at, lane, pixels, taps, strides, o0);

        for (var i = 0u; i < 8u; i++) {
            let row = row0 + tile_row(at, i);
            let image = row / (size.x * size.y);
            let line = row / size.y % size.x * p.stride + corner.x;
            let column = row % size.y * p.stride + corner.y;
            let inside = image < p.out.n && line < p.out.h && column < p.out.w;
            for (var half = 0u; half < 2u; half++) {
                let o = o0 + tile_output(at, 4u * half);
                if inside && o < p.out.c {
                    let i4 = (((image * p.out.h + line) * p.out.w + column) * p.out.c + o) / 4u;
                    out[i4] = add_bias(results_of(&acc, i, half), o);
                }
            }
        }
    }
}
