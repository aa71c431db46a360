// linear: y = f((x*scale + shift)*W^T + bias) + residual, then y*(1 + a) + b
//
// x         [n, h, w, k] f32, arena                     binding 2
// weight    [o, k] f32, f16 or bf16                     binding 3
// bias      [o], likewise, optional                     binding 4
// residual  [n, h, w, o] f32, arena, optional           binding 5; in `out` where in place
// scale     [n, 1, 1, k] f32, arena, optional           binding 6
// shift     [k] as weight, only with scale, optional    binding 7
// table     [n or 1, 1, steps, 2o] f32, arena, optional binding 8; a, then b
// counter   [1, 1, 1, 1] u32, arena, with table         binding 9; the step
// out       [n, h, w, o] f32, arena                     binding 1
//
// Launch     one workgroup of 8 x 8 lanes per TILE_M rows (y) and TILE_N channels (x); a lane has 8 rows x 8 channels.
// Memory     x is read ceil(o / TILE_N) times, W ceil(rows / TILE_M) times; y is written once.
// Numerics   f32; weights are widened exactly.
// Needs      nothing optional; 8 KiB of workgroup memory.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/linear.rs

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

    // What this lane loads into the tiles: four rows and four output channels, every fourth k.
    let four = lane / 4u;
    let row = row0 + 4u * four + vec4(0u, 1u, 2u, 3u);
    let scales = scales_of(row);
    let o = o0 + 4u * four;

    for (var k0 = 0u; k0 < p.x.c; k0 += TILE_K) {
        for (var i = lane % 4u; i < TILE_K; i += 4u) {
            let k = k0 + i;
            put_x(place(i, four), vec4(
                load_x(row.x, scales.x, k), load_x(row.y, scales.y, k),
                load_x(row.z, scales.z, k), load_x(row.w, scales.w, k)));
        }
        for (var i = lane % 4u * 2u; i < TILE_K; i += 8u) {
            let w0 = load_w(o, k0 + i);
            let w1 = load_w(o + 1u, k0 + i);
            let w2 = load_w(o + 2u, k0 + i);
            let w3 = load_w(o + 3u, k0 + i);
            put_w(place(i, four), vec4(w0.x, w1.x, w2.x, w3.x));
            put_w(place(i + 1u, four), vec4(w0.y, w1.y, w2.y, w3.y));
        }
        workgroupBarrier();
        multiply_tiles(&acc, at);
        workgroupBarrier();
    }

    for (var i = 0u; i < 8u; i++) {
        let row = row0 + tile_row(at, i);
        for (var j = 0u; j < 8u; j++) {
            let o = o0 + tile_output(at, j);
            if row < rows() && o < p.out.c {
                out[row * p.out.c + o] = epilogue(row, o, result_of(&acc, i, j));
            }
        }
    }
}
