// layer_norm, one subgroup per row: no barrier, and no idle lanes where rows are short
//
// Operands and result are those of layer_norm.wgsl.
//
// Launch     one workgroup of WG lanes per ROWS rows, which its subgroups take in turn.
// Memory     as layer_norm.wgsl.
// Numerics   as layer_norm.wgsl.
// Needs      subgroups of any width.
// Tunables   WG, a multiple of the width; ROWS.
// Reference  src/ops/layer_norm.rs
override WG: u32 = 256u;
override ROWS: u32 = 8u;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let c = p.out.c;
    let begin = (part.first.x + id.x) * ROWS;
    let end = min(begin + ROWS, p.out.n * p.out.h * p.out.w);
    for (var row = begin + subgroup; row < end; row += subgroups) {
        let base = row * c;

        var sum = 0.0;
        for (var ch = lane; ch < c; ch += width) { sum += value(base + ch); }
        let mean = subgroupAdd(sum) / f32(c);

        sum = 0.0;
        for (var ch = lane; ch < c; ch += width) {
            let d = value(base + ch) - mean;
            sum += d * d;
        }
        let rstd = inverseSqrt(subgroupAdd(sum) / f32(c) + p.eps);

        for (var ch = lane; ch < c; ch += width) {
            out[base + ch] = affine((value(base + ch) - mean) * rstd, ch);
        }
    }
}
