// Sum over a workgroup, for shaders whose workgroups have WG lanes; WG is a power of two.

var<workgroup> partial: array<f32, WG>;

// Sum of v over the workgroup, returned in every lane.
fn group_sum(lane: u32, v: f32) -> f32 {
    partial[lane] = v;
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width { partial[lane] += partial[lane + width]; }
    }
    return workgroupUniformLoad(&partial[0]);
}
