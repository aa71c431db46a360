// linear, for few rows
//
// Operands and result are those of linear.wgsl.
//
// Launch     one workgroup of 8 x 8 lanes per TILE_N channels: 8 lanes (x) split K of one channel (y), for ROWS rows at a
//            time.
// Memory     W is read ceil(rows / ROWS) times, coalesced; x ceil(o / TILE_N) times, from cache; y is written once. With few
//            rows the time is that of reading W.
// Numerics   f32; weights are widened exactly; each sum over K is 8 partial sums.
// Needs      nothing optional. Correct for any number of rows, intended for few.
// Tunables   none: the accumulators are written out as scalars.
// Reference  src/ops/linear.rs
const TILE_N: u32 = 8u;
const ROWS: u32 = 4u;

var<workgroup> partial: array<vec4<f32>, 64>; // [TILE_N][8], ROWS rows per vec4

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let o = group.x * TILE_N + at.y;
    let column = min(o, p.out.c - 1u); // no lane exits, because all must reach the barriers
    for (var row0 = 0u; row0 < rows(); row0 += ROWS) {
        let row = row0 + vec4(0u, 1u, 2u, 3u);
        let scales = scales_of(row);
        var sum = vec4(0.0);
        for (var k = 2u * at.x; k < p.x.c; k += 16u) {
            let w = load_w(column, k);
            let x0 = vec4(
                load_x(row.x, scales.x, k), load_x(row.y, scales.y, k),
                load_x(row.z, scales.z, k), load_x(row.w, scales.w, k));
            let x1 = vec4(
                load_x(row.x, scales.x, k + 1u), load_x(row.y, scales.y, k + 1u),
                load_x(row.z, scales.z, k + 1u), load_x(row.w, scales.w, k + 1u));
            sum = fma(w.yyyy, x1, fma(w.xxxx, x0, sum));
        }
        partial[lane] = sum;
        workgroupBarrier();
        // Of the eight lanes that share a channel, the first ROWS each finish a row.
        if at.x < ROWS && row0 + at.x < rows() && o < p.out.c {
            var dot = 0.0;
            for (var i = 0u; i < 8u; i++) { dot += partial[8u * at.y + i][at.x]; }
            out[(row0 + at.x) * p.out.c + o] = epilogue(row0 + at.x, o, dot);
        }
        workgroupBarrier();
    }
}
