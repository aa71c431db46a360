enable f16;
enable wgpu_cooperative_matrix;
// linear, with cooperative matrices of 16 x 16 x 16 (tensor cores, WMMA)
//
// Operands and result are those of linear.wgsl.
//
// scratch   [n*h*w] f32                                 binding 12; for each row, the power of two that x is multiplied by
//
// Launch     `ranges`: one workgroup per row. `main`: one workgroup of WG lanes per TILE_M rows (y) and TILE_N channels (x);
//            a subgroup has 2 x 2 accumulator matrices, 32 x 32 results, at a time.
// Memory     x is read once by `ranges`, then ceil(o / TILE_N) times; W ceil(rows / TILE_M) times, all in vec4; y is written
//            once. All loads of a tile are issued together, before the product of the tile before.
// Numerics   operands are rounded to f16; accumulates in f32. f16 ends at 65504, which activations exceed, so each row of x
//            is first multiplied by a power of two that brings its largest element to 2^14..2^15, and the result is divided
//            by it. Both are exact, so a row loses only the rounding to 11 bits. An infinity stays one and is found by the
//            check at the end of the stage. Weights are far below 65504; larger ones are clamped.
// Needs      f16; cooperative matrices of 16 x 16 x 16, f16 with f32 accumulators; K and o multiples of 4; 15 KiB of
//            workgroup memory. Any number of subgroups; two or four use all lanes.
// Tunables   none.
// Reference  src/ops/linear.rs
const M: u32 = 16u;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) here: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    let source = source_of(lane, row0, o0);
    let k = lane % 8u * 4u;

    for (var first = 0u; first < 4u; first += subgroups) {
        // The subgroup's unit, and its rows and channels within the tile. With more than four subgroups, the others repeat
        // what these do and store nothing, because matrices are the work of all or none.
        let unit = first + subgroup;
        let m = unit % 2u * UNIT;
        let n = unit / 2u % 2u * UNIT;
        var c00 = coop_mat16x16<f32, C>();
        var c01 = coop_mat16x16<f32, C>();
        var c10 = coop_mat16x16<f32, C>();
        var c11 = coop_mat16x16<f32, C>();
        var next = fetch(source, k);
        for (var k0 = 0u; k0 < p.x.c; k0 += TILE_K) {
            fill_tiles(lane, source, next, k0 + k < p.x.c);
            workgroupBarrier();
            next = fetch(source, k0 + TILE_K + k);
            for (var j = 0u; j < TILE_K; j += M) {
                let x0 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[m * STRIDE + j], STRIDE);
                let x1 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[(m + M) * STRIDE + j], STRIDE);
                // W is stored by output channels, so its transpose is column-major.
                let w0 = coopLoad<coop_mat16x16<f16, B>>(&tile_w[n * STRIDE + j], STRIDE);
                let w1 = coopLoad<coop_mat16x16<f16, B>>(&tile_w[(n + M) * STRIDE + j], STRIDE);
                c00 = coopMultiplyAdd(x0, w0, c00);
                c01 = coopMultiplyAdd(x0, w1, c01);
                c10 = coopMultiplyAdd(x1, w0, c10);
                c11 = coopMultiplyAdd(x1, w1, c11);
            }
            workgroupBarrier();
        }

        // One matrix of every subgroup at a time. What is repeated lies beyond the last channel, so that it is not stored.
        let row = row0 + m;
        let o = select(p.out.c, o0 + n, unit < 4u);
        coopStoreT(c00, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row, o);
        coopStoreT(c01, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row, o + M);
        coopStoreT(c10, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + M, o);
        coopStoreT(c11, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + M, o + M);
    }
}
