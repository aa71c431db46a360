enable f16;
enable wgpu_cooperative_matrix;
// attention, for heads of 64 channels, with cooperative matrices of 16 x 16 x 16 (tensor cores, WMMA)
//
// Operands and result are those of attention.wgsl.
//
// Launch     one workgroup of WG lanes per TILE_Q tokens (x), head (y) and image (z); a subgroup has 2 x 2 accumulator
//            matrices, 32 x 32 results, at a time.
// Memory     each workgroup reads its Q and writes its y once, K twice and V once, ceil(h*w / TILE_Q) times overall, all in
//            vec4. Scores exist for TILE_Q tokens x KEYS keys at a time, in workgroup memory.
// Numerics   Q / sqrt(d), K, V and the weights are rounded to f16; sums and the softmax are f32. The first round over all
//            keys finds the maximum of a token's scores and the second one adds up weights relative to it, so that sums,
//            which stay in matrices, need no rescaling. What exceeds f16, 65504, becomes infinite, and is found by the check
//            at the end of the stage.
// Needs      d = 64; f16; cooperative matrices of 16 x 16 x 16, f16 with f32 accumulators; 27.5 KiB of workgroup memory. Any
//            number of subgroups; with four all is done at once, with fewer the second round is repeated for the next unit.
// Tunables   none.
// Reference  src/ops/attention.rs
const M: u32 = 16u;

// Scores of KEYS keys, from the keys that are staged: 1 x 2 matrices, one strip of tokens, for a subgroup at a time.
fn score(subgroup: u32, subgroups: u32) {
    for (var i = 0u; i < TILE_Q; i += STRIP * subgroups) {
        // With more than four subgroups, the others repeat the first ones' strips.
        let m = (i + STRIP * subgroup) % TILE_Q;
        var s00 = coop_mat16x16<f32, C>(); var s01 = coop_mat16x16<f32, C>();
        for (var k = 0u; k < D; k += M) {
            let q0 = coopLoadT<coop_mat16x16<f16, A>>(&tile_q[m * STRIDE + k], STRIDE);
            // Keys are stored one after the other, so their transpose is column-major.
            let w0 = coopLoad<coop_mat16x16<f16, B>>(&tile_kv[k], STRIDE);
            let w1 = coopLoad<coop_mat16x16<f16, B>>(&tile_kv[M * STRIDE + k], STRIDE);
            s00 = coopMultiplyAdd(q0, w0, s00); s01 = coopMultiplyAdd(q0, w1, s01);
        }
        coopStoreT(s00, &sums[m * STRIDE_S], STRIDE_S);
        coopStoreT(s01, &sums[m * STRIDE_S + M], STRIDE_S);
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
        var c00 = coop_mat16x16<f32, C>(); var c01 = coop_mat16x16<f32, C>();
        var c10 = coop_mat16x16<f32, C>(); var c11 = coop_mat16x16<f32, C>();
        var sum = 0.0;
        for (var source = 0u; source < 2u; source++) {
            let keys = keys_of(source, at.image, at.channel);
            for (var key0 = 0u; key0 < count_of(keys, at.token0); key0 += KEYS) {
                stage(lane, keys, keys.k, key0);
                score(subgroup, subgroups);
                sum += weigh(at, keys, key0, highest);
                stage(lane, keys, keys.v, key0);
                for (var k = 0u; k < KEYS; k += M) {
                    let w0 = coopLoadT<coop_mat16x16<f16, A>>(&tile_p[m * STRIDE_P + k], STRIDE_P);
                    let w1 = coopLoadT<coop_mat16x16<f16, A>>(&tile_p[(m + M) * STRIDE_P + k], STRIDE_P);
                    let v0 = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[k * STRIDE + n], STRIDE);
                    let v1 = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[k * STRIDE + n + M], STRIDE);
                    c00 = coopMultiplyAdd(w0, v0, c00); c01 = coopMultiplyAdd(w0, v1, c01);
                    c10 = coopMultiplyAdd(w1, v0, c10); c11 = coopMultiplyAdd(w1, v1, c11);
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
        coopStoreT(c10, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + M, n);
        coopStoreT(c11, &sums[place_of(subgroup)], M);
        store(subgroup, here, width, at, row + M, n + M);
    }
}
