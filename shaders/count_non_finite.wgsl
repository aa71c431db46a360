// count_non_finite: how many elements of x are NaN or infinite
//
// x       [n, h, w, c] f32, arena, bound as bits  binding 2
// out     [1] u32, arena                          binding 1
//
// Launch     `clear`: one workgroup of one lane; `main`: one workgroup of WG lanes per CHUNK elements of x.
// Memory     reads x once.
// Numerics   exact: integer counts, in any order. The bit patterns are tested, because compilers may assume that no f32 is
//            NaN.
// Needs      nothing optional.
// Tunables   WG, CHUNK.
// Reference  src/ops/count_non_finite.rs
override WG: u32 = 64u;
override CHUNK: u32 = 1024u;

const EXPONENT: u32 = 0x7f800000u; // all ones where a value is not finite

struct Params { out: Shape, x: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<atomic<u32>>;
@group(0) @binding(2) var<storage, read_write> x: array<u32>;

var<workgroup> count: atomic<u32>;

@compute @workgroup_size(1)
fn clear() {
    atomicStore(&out[0], 0u);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (part.first.x + id.x) * CHUNK;
    let end = min(first + CHUNK, p.x.n * p.x.h * p.x.w * p.x.c);
    var mine = 0u;
    for (var i = first + lane; i < end; i += WG) {
        mine += u32((x[i] & EXPONENT) == EXPONENT);
    }
    if lane == 0u { atomicStore(&count, 0u); }
    workgroupBarrier();
    atomicAdd(&count, mine);
    workgroupBarrier();
    if lane == 0u { atomicAdd(&out[0], atomicLoad(&count)); }
}
