enable f16;
enable wgpu_cooperative_matrix;
// attention, for heads of 64 channels, with cooperative matrices of 8 x 8 x 8 (simdgroup matrices)
//
// Operands and result are those of attention.wgsl; numerics are those of attention.coop.wgsl.
//
// Launch     one workgroup of WG lanes per TILE_Q tokens (x), head (y) and image (z); a subgroup has 4 x 4 accumulator
//            matrices, 32 x 32 results, at a time.
// Memory     each workgroup reads its Q and writes its y once, K twice and V once, ceil(h*w / TILE_Q) times overall, all in
//            vec4. Scores exist for TILE_Q tokens x KEYS keys at a time, in workgroup memory.
// Numerics   as attention.coop.wgsl.
// Needs      d = 64; f16; cooperative matrices of 8 x 8 x 8, f16 with f32 accumulators; 27.5 KiB of workgroup memory. Any
//            number of subgroups; with four all is done at once, with fewer the second round is repeated for the next unit.
// Tunables   none.
// Reference  src/ops/attention.rs
const M: u32 = 8u;

// Scores of KEYS keys, from the keys that are staged: 2 x 4 matrices, one strip of tokens, for a subgroup at a time.
fn score(subgroup: u32, subgroups: u32) {
    for (var i = 0u; i < TILE_Q; i += STRIP * subgroups) {
        // With more than four subgroups, the others repeat the first ones' strips.
        let m = (i + STRIP * subgroup) % TILE_Q;
        var s00 = coop_mat8x8<f32, C>(); var s01 = coop_mat8x8<f32, C>();
        var s02 = coop_mat8x8<f32, C>(); var s03 = coop_mat8x8<f32, C>();
        var s10 = coop_mat8x8<f32, C>(); var s11 = coop_mat8x8<f32, C>();
        var s12 = coop_mat8x8<f32, C>(); var s13 = coop_mat8x8<f32, C>();
        for (var k = 0u; k < D; k += M) {
            let q0 = coopLoadT<coop_mat8x8<f16, A>>(&tile_q[m * STRIDE + k], STRIDE);
            let q1 = coopLoadT<coop_mat8x8<f16, A>>(&tile_q[(m + M) * STRIDE + k], STRIDE);
            // Keys are stored one after the other, so their transpose is column-major.
            let w0 = coopLoad<coop_mat8x8<f16, B>>(&tile_kv[k], STRIDE);
            let w1 = coopLoad<coop_mat8x8<f16, B>>(&tile_kv[M * STRIDE + k], STRIDE);
            let w2 = coopLoad<coop_mat8x8<f16, B>>(&tile_kv[2u * M * STRIDE + k], STRIDE);
            let w3 = coopLoad<coop_mat8x8<f16, B>>(&tile_kv[3u * M * STRIDE + k], STRIDE);
            s00 = coopMultiplyAdd(q0, w0, s00); s01 = coopMultiplyAdd(q0, w1, s01);
            s02 = coopMultiplyAdd(q0, w2, s02); s03 = coopMultiplyAdd(q0, w3, s03);
            s10 = coopMultiplyAdd(q1, w0, s10); s11 = coopMultiplyAdd(q1, w1, s11);
            s12 = coopMultiplyAdd(q1, w2, s12); s13 = coopMultiplyAdd(q1, w3, s13);
        }
        coopStoreT(s00, &sums[m * STRIDE_S], STRIDE_S);
        coopStoreT(s01, &sums[m * STRIDE_S + M], STRIDE_S);
        coopStoreT(s02, &sums[m * STRIDE_S + 2u * M], STRIDE_S);
        coopStoreT(s03, &sums[m * STRIDE_S + 3u * M], STRIDE_S);
        coopStoreT(s10, &sums[(m + M) * STRIDE_S], STRIDE_S);
        coopStoreT(s11, &sums[(m + M) * STRIDE_S + M], STRIDE_S);
        coopStoreT(s12, &sums[(m + M) * STRIDE_S + 2u * M], STRIDE_S);
        coopStoreT(s13, &sums[(m + M) * STRIDE_S + 3u * M], STRIDE_S);
    }
    workgroupBarrier();
}

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
    let at = begin(group, lane);
    let highest = maximum(at, lane, subgroup, subgroups);

    for (var first = 0u; first < 4u; first += subgroups) {
        // The subgroup's unit, and its tokens and channels within the tile. With more than four subgroups, the others repeat
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
        var sum = 0.0;
        for (var source = 0u; source < 2u; source++) {
            let keys = keys_of(source, at.image, at.channel);
            for (var key0 = 0u; key0 < count_of(keys, at.token0); key0 += KEYS) {
                stage(lane, keys, keys.k, key0);
                score(subgroup, subgroups);
                sum += weigh(at, keys, key0, highest);
                stage(lane, keys, keys.v, key0);
                for (var k = 0u; k < KEYS; k += M) {
                    let w0 = coopLoadT<coop_mat8x8<f16, A>>(&tile_p[m * STRIDE_P + k], STRIDE_P);
                    let w1 = coopLoadT<coop_mat8x8<f16, A>>(&tile_p[(m + M) * STRIDE_P + k], STRIDE_P);
                    let w2 = coopLoadT<coop_mat8x8<f16, A>>(&tile_p[(m + 2u * M) * STRIDE_P + k], STRIDE_P);
                    let w3 = coopLoadT<coop_mat8x8<f16, A>>(&tile_p[(m + 3u * M) * STRIDE_P + k], STRIDE_P);
                    let v0 = coopLoadT<coop_mat8x8<f16, B>>(&tile_kv[k * STRIDE + n], STRIDE);
                    let v1 = coopLoadT<coop_mat8x8<f16, B>>(&tile_kv[k * STRIDE + n + M], STRIDE);
                    let v2 = coopLoadT<coop_mat8x8<f16, B>>(&tile_kv[k * STRIDE + n + 2u * M], STRIDE);
                    let v3 = coopLoadT<coop_mat8x8<f16, B>>(&tile_kv[k * STRIDE + n + 3u * M], STRIDE);
                    c00 = coopMultiplyAdd(w0, v0, c00); c01 = coopMultiplyAdd(w0, v1, c01);
                    c02 = coopMultiplyAdd(w0, v2, c02); c03 = coopMultiplyAdd(w0, v3, c03);
                    c10 = coopMultiplyAdd(w1, v0, c10); c11 = coopMultiplyAdd(w1, v1, c11);
                    c12 = coopMultiplyAdd(w1, v2, c12); c13 = coopMultiplyAdd(w1, v3, c13);
                    c20 = coopMultiplyAdd(w2, v0, c20); c21 = coopMultiplyAdd(w2, v1, c21);
                    c22 = coopMultiplyAdd(w2, v2, c22); c23 = coopMultiplyAdd(w2, v3, c23);
                    c30 = coopMultiplyAdd(w3, v0, c30); c31 = coopMultiplyAdd(w3, v1, c31);
                    c32 = coopMultiplyAdd(w3, v2, c32); c33 = coopMultiplyAdd(w3, v3, c33);
                }
            }
        }
        workgroupBarrier();
        halves[lane] = sum;

        // One matrix of every subgroup at a time. What is repeated lies beyond the last row, so that it is not stored.
        let row = select(TILE_Q, m, unit < 4u);
        coopStoreT(c00, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row, n);
        coopStoreT(c01, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row, n + M);
        coopStoreT(c02, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row, n + 2u * M);
        coopStoreT(c03, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row, n + 3u * M);
        coopStoreT(c10, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + M, n);
        coopStoreT(c11, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + M, n + M);
        coopStoreT(c12, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + M, n + 2u * M);
        coopStoreT(c13, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + M, n + 3u * M);
        coopStoreT(c20, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 2u * M, n);
        coopStoreT(c21, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 2u * M, n + M);
        coopStoreT(c22, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 2u * M, n + 2u * M);
        coopStoreT(c23, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 2u * M, n + 3u * M);
        coopStoreT(c30, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 3u * M, n);
        coopStoreT(c31, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 3u * M, n + M);
        coopStoreT(c32, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 3u * M, n + 2u * M);
        coopStoreT(c33, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + 3u * M, n + 3u * M);
    }
}
