// An f32 GEMM tile, TILE_M rows of x by TILE_N output channels, shared by linear and the convolutions. A workgroup of 8 x 8
// lanes fills tile_x and tile_w for TILE_K of K, waits at a barrier, multiplies, and waits again before the next fill. A
// lane has 8 rows x 8 channels, written out as scalars, because an array indexed at run time would go to memory.

const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const STRIDE: u32 = 17u; // vec4 per k of a tile: 16, and one of padding against bank conflicts

var<workgroup> tile_x: array<vec4<f32>, 272>; // [TILE_K][STRIDE], four rows per vec4
var<workgroup> tile_w: array<vec4<f32>, 272>; // [TILE_K][STRIDE], four output channels per vec4

// Accumulators of the lane at (x, y): rows 4y..4y+4 and 32+4y..; `l` for channels 4x..4x+4, `r` for channels 32+4x...
struct Accumulator {
    l0: vec4<f32>, l1: vec4<f32>, l2: vec4<f32>, l3: vec4<f32>, l4: vec4<f32>, l5: vec4<f32>, l6: vec4<f32>, l7: vec4<f32>,
    r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>, r4: vec4<f32>, r5: vec4<f32>, r6: vec4<f32>, r7: vec4<f32>,
}

// Adds the product of the two tiles to the accumulators.
fn multiply_tiles(s: ptr<function, Accumulator>, at: vec3<u32>) {
    for (var k = 0u; k < TILE_K; k++) {
        let a = tile_x[k * STRIDE + at.y];
        let b = tile_x[k * STRIDE + 8u + at.y];
        let l = tile_w[k * STRIDE + at.x];
        let r = tile_w[k * STRIDE + 8u + at.x];
        (*s).l0 = fma(a.xxxx, l, (*s).l0); (*s).r0 = fma(a.xxxx, r, (*s).r0);
        (*s).l1 = fma(a.yyyy, l, (*s).l1); (*s).r1 = fma(a.yyyy, r, (*s).r1);
        (*s).l2 = fma(a.zzzz, l, (*s).l2); (*s).r2 = fma(a.zzzz, r, (*s).r2);
        (*s).l3 = fma(a.wwww, l, (*s).l3); (*s).r3 = fma(a.wwww, r, (*s).r3);
        (*s).l4 = fma(b.xxxx, l, (*s).l4); (*s).r4 = fma(b.xxxx, r, (*s).r4);
        (*s).l5 = fma(b.yyyy, l, (*s).l5); (*s).r5 = fma(b.yyyy, r, (*s).r5);
        (*s).l6 = fma(b.zzzz, l, (*s).l6); (*s).r6 = fma(b.zzzz, r, (*s).r6);
        (*s).l7 = fma(b.wwww, l, (*s).l7); (*s).r7 = fma(b.wwww, r, (*s).r7);
    }
}

// Row i and output channel j of a lane's results within the tile; i and j below 8.
fn tile_row(at: vec3<u32>, i: u32) -> u32 { return i / 4u * 32u + 4u * at.y + i % 4u; }
fn tile_output(at: vec3<u32>, j: u32) -> u32 { return j / 4u * 32u + 4u * at.x + j % 4u; }

// Result (i, j) of a lane. Called in loops, so that the epilogue is compiled once and not 64 times.
fn result_of(s: ptr<function, Accumulator>, i: u32, j: u32) -> f32 {
    var l = (*s).l0;
    var r = (*s).r0;
    switch i {
        case 1u: { l = (*s).l1; r = (*s).r1; }
        case 2u: { l = (*s).l2; r = (*s).r2; }
        case 3u: { l = (*s).l3; r = (*s).r3; }
        case 4u: { l = (*s).l4; r = (*s).r4; }
        case 5u: { l = (*s).l5; r = (*s).r5; }
        case 6u: { l = (*s).l6; r = (*s).r6; }
        case 7u: { l = (*s).l7; r = (*s).r7; }
        default: {}
    }
    return select(l, r, j >= 4u)[j % 4u];
}
