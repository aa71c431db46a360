// An f32 GEMM tile, TILE_M rows of x by TILE_N output channels, shared by linear and the convolutions. A workgroup of
// SIDE x SIDE lanes fills tile_x and tile_w for TILE_K of K, waits at a barrier, multiplies, and waits again before the next
// fill. A lane has 8 rows x 8 channels, written out as scalars, because an array indexed at run time would go to memory.

override SIDE: u32 = 8u;
override TILE_M: u32 = SIDE * 8u;
override TILE_N: u32 = SIDE * 8u;
const TILE_K: u32 = 16u;
override QUADS: u32 = SIDE * 2u; // vec4 per k of a tile
override TILE: u32 = 2u * QUADS * TILE_K;

// In vec2, because several lanes may not write to one vector; they are read as vec4, and compilers see that.
var<workgroup> tile_x: array<vec2<f32>, TILE>; // [TILE_K][QUADS][2], four rows per pair; see `place`
var<workgroup> tile_w: array<vec2<f32>, TILE>; // [TILE_K][QUADS][2], four output channels per pair

fn x_at(at: u32) -> vec4<f32> { return vec4(tile_x[2u * at], tile_x[2u * at + 1u]); }
fn w_at(at: u32) -> vec4<f32> { return vec4(tile_w[2u * at], tile_w[2u * at + 1u]); }

fn put_x(at: u32, v: vec4<f32>) {
    tile_x[2u * at] = v.xy;
    tile_x[2u * at + 1u] = v.zw;
}

fn put_w(at: u32, v: vec4<f32>) {
    tile_w[2u * at] = v.xy;
    tile_w[2u * at + 1u] = v.zw;
}

// Where four rows, or channels, of a tile's k lie, the fours being numbered. Every four k they trade places, so that lanes
// that store four k of four rows each use different banks of workgroup memory; within four k, one k is QUADS from the next.
fn place(k: u32, quad: u32) -> u32 { return k * QUADS + (quad ^ (k / 4u * 2u)); }

// Puts four k of four rows, a to d, into tile_x, where four rows of one k lie together. `at` is the place of the first k.
fn fill_x(at: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    put_x(at, vec4(a.x, b.x, c.x, d.x));
    put_x(at + QUADS, vec4(a.y, b.y, c.y, d.y));
    put_x(at + 2u * QUADS, vec4(a.z, b.z, c.z, d.z));
    put_x(at + 3u * QUADS, vec4(a.w, b.w, c.w, d.w));
}

// The same for four output channels and tile_w.
fn fill_w(at: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    put_w(at, vec4(a.x, b.x, c.x, d.x));
    put_w(at + QUADS, vec4(a.y, b.y, c.y, d.y));
    put_w(at + 2u * QUADS, vec4(a.z, b.z, c.z, d.z));
    put_w(at + 3u * QUADS, vec4(a.w, b.w, c.w, d.w));
}

// Accumulators of the lane at (x, y): rows 4y..4y+4 and 4*SIDE+4y..; `l` for channels 4x..4x+4, `r` for channels
// 4*SIDE+4x...
struct Accumulator {
    l0: vec4<f32>, l1: vec4<f32>, l2: vec4<f32>, l3: vec4<f32>, l4: vec4<f32>, l5: vec4<f32>, l6: vec4<f32>, l7: vec4<f32>,
    r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>, r4: vec4<f32>, r5: vec4<f32>, r6: vec4<f32>, r7: vec4<f32>,
}

// Adds the products of one k of the two tiles to the accumulators. `at` is where the lane's two vec4 of x and two of W lie.
fn multiply(s: ptr<function, Accumulator>, at: vec4<u32>) {
    let a = x_at(at.x);
    let b = x_at(at.y);
    let l = w_at(at.z);
    let r = w_at(at.w);
    (*s).l0 = fma(a.xxxx, l, (*s).l0); (*s).r0 = fma(a.xxxx, r, (*s).r0);
    (*s).l1 = fma(a.yyyy, l, (*s).l1); (*s).r1 = fma(a.yyyy, r, (*s).r1);
    (*s).l2 = fma(a.zzzz, l, (*s).l2); (*s).r2 = fma(a.zzzz, r, (*s).r2);
    (*s).l3 = fma(a.wwww, l, (*s).l3); (*s).r3 = fma(a.wwww, r, (*s).r3);
    (*s).l4 = fma(b.xxxx, l, (*s).l4); (*s).r4 = fma(b.xxxx, r, (*s).r4);
    (*s).l5 = fma(b.yyyy, l, (*s).l5); (*s).r5 = fma(b.yyyy, r, (*s).r5);
    (*s).l6 = fma(b.zzzz, l, (*s).l6); (*s).r6 = fma(b.zzzz, r, (*s).r6);
    (*s).l7 = fma(b.wwww, l, (*s).l7); (*s).r7 = fma(b.wwww, r, (*s).r7);
}

// Adds the product of the two tiles to the accumulators. Four k are written out, which leaves little but FMAs in the loop.
fn multiply_tiles(s: ptr<function, Accumulator>, at: vec3<u32>) {
    for (var k = 0u; k < TILE_K; k += 4u) {
        let first = vec4(place(k, at.y), place(k, SIDE + at.y), place(k, at.x), place(k, SIDE + at.x));
        multiply(s, first);
        multiply(s, first + QUADS);
        multiply(s, first + 2u * QUADS);
        multiply(s, first + 3u * QUADS);
    }
}

// Row i and output channel j of a lane's results within the tile; i and j below 8.
fn tile_row(at: vec3<u32>, i: u32) -> u32 { return i / 4u * 4u * SIDE + 4u * at.y + i % 4u; }
fn tile_output(at: vec3<u32>, j: u32) -> u32 { return j / 4u * 4u * SIDE + 4u * at.x + j % 4u; }

// Results (i, 4 * half) to (i, 4 * half + 3) of a lane. Called in loops, so that the epilogue is compiled once.
fn results_of(s: ptr<function, Accumulator>, i: u32, half: u32) -> vec4<f32> {
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
    return select(l, r, half == 1u);
}

// Result (i, j) of a lane.
fn result_of(s: ptr<function, Accumulator>, i: u32, j: u32) -> f32 { return results_of(s, i, j / 4u)[j % 4u]; }
