// group_norm: y = f((x - mean) / sqrt(var + eps)·weight + bias), over all pixels and the channels of a group
//
// x        [n, h, w, c] f32, arena                                                               binding 2
// weight   [c] learned                                                                           binding 3
// bias     [c] learned                                                                           binding 4
// out      [n, h, w, c] f32, arena                                                               binding 1
// scratch  [n, groups, ceil(h·w / PIXELS), 2] f32: a block's mean and squared deviations;        binding 12
//          later a group's mean and 1 / sqrt(var + eps), in place of its first block
//
// Launch     `blocks`: one workgroup of WG lanes per block of PIXELS pixels, channel group and image;
//            `merge`: one workgroup of WG lanes per channel group and image;
//            `main`: one lane per element, WG lanes per workgroup.
// Memory     reads x three times, the second from cache; writes y once.
// Numerics   f32. Each block computes its mean, then the squared deviations from it; blocks are merged by Chan's formula,
//            where the deviations of their means are taken about the overall mean.
// Needs      nothing optional. WG is a power of two.
// Tunables   WG, PIXELS.
// Reference  src/ops/group_norm.rs
override WG: u32 = 128u;
override PIXELS: u32 = 128u;
@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, groups: u32, eps: f32, function: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;
@group(0) @binding(12) var<storage, read_write> scratch: array<f32>;

// Index in scratch of a channel group's first block.
fn first_block(image: u32, group: u32) -> u32 {
    return (image * p.groups + group) * ((p.x.h * p.x.w + PIXELS - 1u) / PIXELS);
}

// Number of pixels of a block; the last one may be short.
fn block_pixels(block: u32) -> u32 {
    return min(PIXELS, p.x.h * p.x.w - block * PIXELS);
}

@compute @workgroup_size(WG)
fn blocks(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = part.first + id;
    let channels = p.x.c / p.groups;
    let count = block_pixels(group.x) * channels;
    let base = (group.z * p.x.h * p.x.w + group.x * PIXELS) * p.x.c + group.y * channels;

    var sum = 0.0;
    for (var i = lane; i < count; i += WG) { sum += x[base + i / channels * p.x.c + i % channels]; }
    let mean = group_sum(lane, sum) / f32(count);

    sum = 0.0;
    for (var i = lane; i < count; i += WG) {
        let d = x[base + i / channels * p.x.c + i % channels] - mean;
        sum += d * d;
    }
    sum = group_sum(lane, sum);

    if lane == 0u {
        let at = first_block(group.z, group.y) + group.x;
        scratch[2u * at] = mean;
        scratch[2u * at + 1u] = sum;
    }
}

@compute @workgroup_size(WG)
fn merge(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = part.first + id;
    let channels = f32(p.x.c / p.groups);
    let count = f32(p.x.h * p.x.w) * channels;
    let begin = first_block(group.y, group.x);
    let blocks = first_block(group.y, group.x + 1u) - begin;

    var sum = 0.0;
    for (var i = lane; i < blocks; i += WG) { sum += f32(block_pixels(i)) * channels * scratch[2u * (begin + i)]; }
    let mean = group_sum(lane, sum) / count;

    sum = 0.0;
    for (var i = lane; i < blocks; i += WG) {
        let d = scratch[2u * (begin + i)] - mean;
        sum += scratch[2u * (begin + i) + 1u] + f32(block_pixels(i)) * channels * d * d;
    }
    let variance = group_sum(lane, sum) / count; // its barriers come after all reads of scratch, which is overwritten below

    if lane == 0u {
        scratch[2u * begin] = mean;
        scratch[2u * begin + 1u] = inverseSqrt(variance + p.eps);
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = part.first.x * WG + id.x;
    let size = p.out.h * p.out.w * p.out.c;
    if i >= p.out.n * size { return; }
    let ch = i % p.out.c;
    let at = first_block(i / size, ch / (p.out.c / p.groups));
    let v = (x[i] - scratch[2u * at]) * scratch[2u * at + 1u];
    out[i] = apply(
        p.function,
        v * element(weight[word(ch, weight_kind)], ch, weight_kind) + element(bias[word(ch, bias_kind)], ch, bias_kind),
    );
}
