// layer_norm: y = (x - mean) / sqrt(var + eps) over the channels, then y·first + bias per channel,
// or y·(1 + first[0]) + first[1]
//
// x       [n, h, w, c] f32, arena; in `out` where in place       binding 2
// first   [c] weight or [6] gammas, learned, or absent           binding 3
// bias    [c] learned, read where the affine map is per channel  binding 4
// out     [n, h, w, c] f32, arena                                binding 1
//
// Launch     one workgroup of WG lanes per row, striding over the channels.
// Memory     reads x three times, the last two from cache; writes y once.
// Numerics   f32, one partial sum per lane. The variance takes a second pass: E[x²] - E[x]² would cancel where the mean is
//            large.
// Needs      nothing optional. WG is a power of two.
// Tunables   WG.
// Reference  src/ops/layer_norm.rs
override WG: u32 = 128u;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = part.first.x + id.x;
    if row >= p.out.n * p.out.h * p.out.w { return; }
    let c = p.out.c;
    let base = row * c;

    var sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) { sum += value(base + ch); }
    let mean = group_sum(lane, sum) / f32(c);

    sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) {
        let d = value(base + ch) - mean;
        sum += d * d;
    }
    let rstd = inverseSqrt(group_sum(lane, sum) / f32(c) + p.eps);

    for (var ch = lane; ch < c; ch += WG) {
        out[base + ch] = affine((value(base + ch) - mean) * rstd, ch);
    }
}
