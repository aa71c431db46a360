// depthwise_norm: v[row, col, ch] = bias[ch] + sum over i, j of x[row + i - k/2, col + j - k/2, ch]·weight[ch, i, j],
// with x zero outside the image; y = (v - mean) / sqrt(var + eps) over the channels
//
// x       [n, h, w, c] f32, arena                      binding 2
// weight  [c, 1, k, k] learned, k odd                  binding 3
// bias    [c] learned                                  binding 4
// out     [n, h, w, c] f32, arena; stores v meanwhile  binding 1
//
// Launch     one workgroup of WG lanes per pixel, striding over the channels.
// Memory     reads x k² times, all but once from cache; writes out twice, and each lane reads its own v back, from cache.
// Numerics   f32, one partial sum per lane, the mean before the variance.
// Needs      nothing optional. WG is a power of two.
// Tunables   WG.
// Reference  src/ops/depthwise_norm.rs
override WG: u32 = 128u;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pixel = part.first.x + id.x;
    if pixel >= p.out.n * p.out.h * p.out.w { return; }
    let c = p.out.c;
    let base = pixel * c;

    var sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) {
        let v = convolve(pixel, ch);
        out[base + ch] = v;
        sum += v;
    }
    let mean = group_sum(lane, sum) / f32(c);

    sum = 0.0;
    for (var ch = lane; ch < c; ch += WG) {
        let d = out[base + ch] - mean;
        sum += d * d;
    }
    let rstd = inverseSqrt(group_sum(lane, sum) / f32(c) + p.eps);

    for (var ch = lane; ch < c; ch += WG) {
        out[base + ch] = (out[base + ch] - mean) * rstd;
    }
}
