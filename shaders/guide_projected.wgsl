// guide_projected: p·cond + q·(cond - uncond), with p and q from sums over the image, so that guidance keeps the prediction's
// direction or contrast
//
// eps       [2n, h, w, c] f32: the conditional images, then the others; arena  binding 2
// guidance  [steps, 3] f32: g, rescale, parallel of every step; arena          binding 3
// counter   [1] u32: the step; arena                                           binding 4
// out       [n, h, w, c] f32, arena                                            binding 1
//
// Launch     one workgroup of WG lanes per image.
// Memory     reads eps three times, the second and third time from cache; writes out once.
// Numerics   f32; each lane adds every WG-th value, then the lanes' sums are added. The variances take a second pass, about the
//            mean of the first.
// Needs      nothing optional. WG is a power of two.
// Tunables   WG.
// Reference  src/ops/guide_projected.rs
override WG: u32 = 256u;

struct Params { out: Shape, eps: Shape, guidance: Shape, counter: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> eps: array<f32>;
@group(0) @binding(3) var<storage, read_write> guidance: array<f32>;
@group(0) @binding(4) var<storage, read_write> counter: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = part.first + id;
    let image = p.out.h * p.out.w * p.out.c;
    let cond = group.x * image;
    let uncond = (p.out.n + group.x) * image;
    let at = 3u * min(counter[0], p.guidance.w - 1u);
    let g = guidance[at];
    let rescale = guidance[at + 1u];
    let parallel = guidance[at + 2u];

    var sums = vec4(0.0); // of cond, of the difference, of the squares of cond, of the products
    for (var i = lane; i < image; i += WG) {
        let e = eps[cond + i];
        let d = e - eps[uncond + i];
        sums += vec4(e, d, e * e, e * d);
    }
    let sum_cond = group_sum(lane, sums.x);
    let sum_differs = group_sum(lane, sums.y);
    let length = group_sum(lane, sums.z);
    let product = group_sum(lane, sums.w);
    var along = 0.0;
    if length > 0.0 { along = product / length; }
    let of_cond = 1.0 - (g - 1.0) * (1.0 - parallel) * along;
    let of_differs = g - 1.0;

    let mean_before = sum_cond / f32(image);
    let mean_after = (of_cond * sum_cond + of_differs * sum_differs) / f32(image);
    var squares = vec2(0.0); // of cond, of the guided prediction, about their means
    for (var i = lane; i < image; i += WG) {
        let e = eps[cond + i];
        let d = e - eps[uncond + i];
        let deviation = vec2(e - mean_before, of_cond * e + of_differs * d - mean_after);
        squares += deviation * deviation;
    }
    let before = group_sum(lane, squares.x);
    let after = group_sum(lane, squares.y);
    var ratio = 1.0;
    if after > 0.0 { ratio = sqrt(before / after); }
    let factor = rescale * ratio + 1.0 - rescale;

    for (var i = lane; i < image; i += WG) {
        let e = eps[cond + i];
        let d = e - eps[uncond + i];
        out[cond + i] = (of_cond * e + of_differs * d) * factor;
    }
}
