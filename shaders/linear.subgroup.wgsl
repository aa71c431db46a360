// linear, with operands exchanged within a subgroup
//
// Operands and result are those of linear.wgsl.
//
// Launch     one workgroup of TILE_N lanes per TILE_M rows (y) and TILE_N channels (x); a lane has 8 rows of one channel.
// Memory     x is read ceil(o / TILE_N) times; W ceil(rows / TILE_M) times, each lane one row of it, from cache; y is
//            written once.
// Numerics   f32; weights are widened exactly.
// Needs      subgroups of any width. Each lane holds one x of each row, which the others read by subgroupShuffle: no
//            barrier and no tile. Meant for CPUs, where the lanes are a vector register and a shuffle is free.
// Tunables   TILE_N, a multiple or a divisor of the subgroup's width.
// Reference  src/ops/linear.rs
const TILE_M: u32 = 8u;
override TILE_N: u32 = 64u;

@compute @workgroup_size(TILE_N)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_size) subgroup: u32,
    @builtin(subgroup_invocation_id) here: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o = group.x * TILE_N + lane;
    let column = min(o, p.out.c - 1u); // no lane exits, because the others read from it
    let width = min(subgroup, TILE_N);
    let scales0 = scales_of(row0 + vec4(0u, 1u, 2u, 3u));
    let scales4 = scales_of(row0 + vec4(4u, 5u, 6u, 7u));
    var s0 = 0.0; var s1 = 0.0; var s2 = 0.0; var s3 = 0.0;
    var s4 = 0.0; var s5 = 0.0; var s6 = 0.0; var s7 = 0.0;

    for (var k0 = 0u; k0 < p.x.c; k0 += width) {
        let x0 = load_x(row0, scales0.x, k0 + here);
        let x1 = load_x(row0 + 1u, scales0.y, k0 + here);
        let x2 = load_x(row0 + 2u, scales0.z, k0 + here);
        let x3 = load_x(row0 + 3u, scales0.w, k0 + here);
        let x4 = load_x(row0 + 4u, scales4.x, k0 + here);
        let x5 = load_x(row0 + 5u, scales4.y, k0 + here);
        let x6 = load_x(row0 + 6u, scales4.z, k0 + here);
        let x7 = load_x(row0 + 7u, scales4.w, k0 + here);
        for (var j = 0u; j < min(width, p.x.c - k0); j += 2u) {
            let w = load_w(column, k0 + j);
            s0 = fma(subgroupShuffle(x0, j), w.x, fma(subgroupShuffle(x0, j + 1u), w.y, s0));
            s1 = fma(subgroupShuffle(x1, j), w.x, fma(subgroupShuffle(x1, j + 1u), w.y, s1));
            s2 = fma(subgroupShuffle(x2, j), w.x, fma(subgroupShuffle(x2, j + 1u), w.y, s2));
            s3 = fma(subgroupShuffle(x3, j), w.x, fma(subgroupShuffle(x3, j + 1u), w.y, s3));
            s4 = fma(subgroupShuffle(x4, j), w.x, fma(subgroupShuffle(x4, j + 1u), w.y, s4));
            s5 = fma(subgroupShuffle(x5, j), w.x, fma(subgroupShuffle(x5, j + 1u), w.y, s5));
            s6 = fma(subgroupShuffle(x6, j), w.x, fma(subgroupShuffle(x6, j + 1u), w.y, s6));
            s7 = fma(subgroupShuffle(x7, j), w.x, fma(subgroupShuffle(x7, j + 1u), w.y, s7));
        }
    }

    // One row at a time in a loop, so that `finish` is compiled once and not 8 times.
    for (var i = 0u; i < TILE_M; i++) {
        var s = s0;
        switch i {
            case 1u: { s = s1; }
            case 2u: { s = s2; }
            case 3u: { s = s3; }
            case 4u: { s = s4; }
            case 5u: { s = s5; }
            case 6u: { s = s6; }
            case 7u: { s = s7; }
            default: {}
        }
        let row = row0 + i;
        if row < rows() && o < p.out.c { out[row * p.out.c + o] = epilogue(row, o, s); }
    }
}
