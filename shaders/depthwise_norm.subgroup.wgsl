// depthwise_norm, one subgroup per pixel: no barrier, and no idle lanes where there are few channels
//
// Operands and result are those of depthwise_norm.wgsl.
//
// Launch     one workgroup of WG lanes per ROWS pixels, which its subgroups take in turn: neighbouring pixels share a cache.
// Memory     as depthwise_norm.wgsl.
// Numerics   as depthwise_norm.wgsl.
// Needs      subgroups of any width.
// Tunables   WG, a multiple of the width; ROWS.
// Reference  src/ops/depthwise_norm.rs
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
    for (var pixel = begin + subgroup; pixel < end; pixel += subgroups) {
        let base = pixel * c;

        var sum = 0.0;
        for (var ch = lane; ch < c; ch += width) {
            let v = convolve(pixel, ch);
            out[base + ch] = v;
            sum += v;
        }
        let mean = subgroupAdd(sum) / f32(c);

        sum = 0.0;
        for (var ch = lane; ch < c; ch += width) {
            let d = out[base + ch] - mean;
            sum += d * d;
        }
        let rstd = inverseSqrt(subgroupAdd(sum) / f32(c) + p.eps);

        for (var ch = lane; ch < c; ch += width) {
            out[base + ch] = (out[base + ch] - mean) * rstd;
        }
    }
}
