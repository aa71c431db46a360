// advance: counter += 1
//
// counter [1] u32, arena; in `out` where in place  binding 2
// out     [1] u32, arena                           binding 1
//
// Launch     one workgroup of one lane.
// Memory     one word.
// Numerics   u32, wraps around.
// Needs      nothing optional.
// Tunables   none.
// Reference  src/ops/advance.rs
@id(0) override counter_kind: u32;

struct Params { out: Shape, counter: Shape }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<storage, read_write> counter: array<u32>;

@compute @workgroup_size(1)
fn main() {
    if counter_kind == IN_PLACE {
        out[0] = out[0] + 1u;
    } else {
        out[0] = counter[0] + 1u;
    }
}
