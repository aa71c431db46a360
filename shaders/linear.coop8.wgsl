enable f16;
enable wgpu_cooperative_matrix;
// linear, with cooperative matrices of 8 x 8 x 8 (simdgroup matrices)
//
// Operands and result are those of linear.wgsl; numerics are those of linear.coop.wgsl.
//
// scratch   [n*h*w] f32                                 binding 12; for each row, the power of two that x is multiplied by
//
// Launch     `ranges`: one workgroup per row. `main`: one workgroup of WG lanes per TILE_M rows (y) and TILE_N channels (x);
//            a subgroup has 4 x 4 accumulator matrices, 32 x 32 results, at a time.
// Memory     x is read once by `ranges`, then ceil(o / TILE_N) times; W ceil(rows / TILE_M) times, all in vec4; y is written
//            once. All loads of a tile are issued together, before the product of the tile before.
// Numerics   as linear.coop.wgsl.
// Needs      f16; cooperative matrices of 8 x 8 x 8, f16 with f32 accumulators; K and o multiples of 4; 15 KiB of
//            workgroup memory. Any number of subgroups; two or four use all lanes.
// Tunables   none.
// Reference  src/ops/linear.rs
const M: u32 = 8u;

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
        var c00 = coop_mat8x8<f32, C>(); var c01 = coop_mat8x8<f32, C>();
        var c02 = coop_mat8x8<f32, C>(); var c03 = coop_mat8x8<f32, C>();
        var c10 = coop_mat8x8<f32, C>(); var c11 = coop_mat8x8<f32, C>();
        var c12 = coop_mat8x8<f32, C>(); var c13 = coop_mat8x8<f32, C>();
        var c20 = coop_mat8x8<f32, C>(); var c21 = coop_mat8x8<f32, C>();
        var c22 = coop_mat8x8<f32, C>(); var c23 = coop_mat8x8<f32, C>();
        var c30 = coop_mat8x8<f32, C>(); var c31 = coop_mat8x8<f32, C>();
        var c32 = coop_mat8x8<f32, C>(); var c33 = coop_mat8x8<f32, C>();
        var next = fetch(source, k);
        for (var k0 = 0u; k0 < p.x.c; k0 += TILE_K) {
            fill_tiles(lane, source, next, k0 + k < p.x.c);
            workgroupBarrier();
            next = fetch(source, k0 + TILE_K + k);
            for (var j = 0u; j < TILE_K; j += M) {
                let x0 = coopLoadT<coop_mat8x8<f16, A>>(&tile_x[(m + 0u * M) * STRIDE + j], STRIDE);
                let x1 = coopLoadT<coop_mat8x8<f16, A>>(&tile_x[(m + 1u * M) * STRIDE + j], STRIDE);
                let x2 = coopLoadT<coop_mat8x8<f16, A>>(&tile_x[(m + 2u * M) * STRIDE + j], STRIDE);
                let x3 = coopLoadT<coop_mat8x8<f16, A>>(&tile_x[(m + 3u * M) * STRIDE + j], STRIDE);
                // W is stored by output channels, so its transpose is column-major.
                let w0 = coopLoad<coop_mat8x8<f16, B>>(&tile_w[(n + 0u * M) * STRIDE + j], STRIDE);
                let w1 = coopLoad<coop_mat8x8<f16, B>>(&tile_w[(n + 1u * M) * STRIDE + j], STRIDE);
                let w2 = coopLoad<coop_mat8x8<f16, B>>(&tile_w[(n + 2u * M) * STRIDE + j], STRIDE);
                let w3 = coopLoad<coop_mat8x8<f16, B>>(&tile_w[(n + 3u * M) * STRIDE + j], STRIDE);
                c00 = coopMultiplyAdd(x0, w0, c00); c01 = coopMultiplyAdd(x0, w1, c01);
                c02 = coopMultiplyAdd(x0, w2, c02); c03 = coopMultiplyAdd(x0, w3, c03);
                c10 = coopMultiplyAdd(x1, w0, c10); c11 = coopMultiplyAdd(x1, w1, c11);
                c12 = coopMultiplyAdd(x1, w2, c12); c13 = coopMultiplyAdd(x1, w3, c13);
                c20 = coopMultiplyAdd(x2, w0, c20); c21 = coopMultiplyAdd(x2, w1, c21);
                c22 = coopMultiplyAdd(x2, w2, c22); c23 = coopMultiplyAdd(x2, w3, c23);
                c30 = coopMultiplyAdd(x3, w0, c30); c31 = coopMultiplyAdd(x3, w1, c31);
                c32 = coopMultiplyAdd(x3, w2, c32); c33 = coopMultiplyAdd(x3, w3, c33);
            }
            workgroupBarrier();
        }

        // One matrix of every subgroup at a time. What is repeated lies beyond the last channel, so that it is not stored.
        let row = row0 + m;
        let o = select(p.out.c, o0 + n, unit < 4u);
        coopStoreT(c00, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 0u * M, o + 0u * M);
        coopStoreT(c01, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 0u * M, o + 1u * M);
        coopStoreT(c02, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 0u * M, o + 2u * M);
        coopStoreT(c03, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 0u * M, o + 3u * M);
        coopStoreT(c10, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 1u * M, o + 0u * M);
        coopStoreT(c11, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 1u * M, o + 1u * M);
        coopStoreT(c12, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 1u * M, o + 2u * M);
        coopStoreT(c13, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 1u * M, o + 3u * M);
        coopStoreT(c20, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 2u * M, o + 0u * M);
        coopStoreT(c21, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 2u * M, o + 1u * M);
        coopStoreT(c22, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 2u * M, o + 2u * M);
        coopStoreT(c23, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 2u * M, o + 3u * M);
        coopStoreT(c30, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 3u * M, o + 0u * M);
        coopStoreT(c31, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 3u * M, o + 1u * M);
        coopStoreT(c32, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 3u * M, o + 2u * M);
        coopStoreT(c33, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, row + 3u * M, o + 3u * M);
    }
}
