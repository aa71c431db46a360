enable f16;
enable wgpu_cooperative_matrix;
// linear, with cooperative matrices (tensor cores)
//
// Operands and result are those of linear.wgsl.
//
// scratch   [n*h*w] f32                                 binding 12; for each row, the power of two that x is multiplied by
//
// Launch     `ranges`: one workgroup per row. `main`: one workgroup of 4 subgroups per TILE_M rows (y) and TILE_N channels
//            (x); a subgroup has 2 x 2 accumulator matrices of 16 x 16.
// Memory     x is read once by `ranges`, then ceil(o / TILE_N) times; W ceil(rows / TILE_M) times; y is written once.
// Numerics   operands are rounded to f16; accumulates in f32. f16 ends at 65504, which activations exceed, so each row of x
//            is first multiplied by a power of two that brings its largest element to 2^14..2^15, and the result is divided
//            by it. Both are exact, so a row loses only the rounding to 11 bits. An infinity stays one and is found by the
//            check at the end of the stage. Weights are far below 65504; larger ones are clamped.
// Needs      f16; cooperative matrices of 16 x 16 x 16, f16 with f32 accumulators; subgroups of exactly 32 lanes;
//            14.8 KiB of workgroup memory. Compiled by naga in the tests; not run so far.
// Tunables   none.
// Reference  src/ops/linear.rs
const WG: u32 = 128u;
const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 32u;
const STRIDE: u32 = 40u; // elements per row of a tile: TILE_K, and 16 bytes of padding against bank conflicts

@group(0) @binding(12) var<storage, read_write> scratch: array<f32>;

var<workgroup> tile_x: array<f16, 2560>; // [TILE_M][STRIDE]
var<workgroup> tile_w: array<f16, 2560>; // [TILE_N][STRIDE]
var<workgroup> sums: array<f32, 1024>;   // [4][16][16], one matrix per subgroup
var<workgroup> powers: array<f32, 64>;   // [TILE_M], from `scratch`
var<workgroup> scales: array<u32, 64>;   // [TILE_M], offset of the scales of the row's image

@compute @workgroup_size(WG)
fn ranges(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = part.first.x + id.x;
    if row >= p.out.n * p.out.h * p.out.w { return; }
    let scales = row / (p.x.h * p.x.w) * p.x.c;
    // The bit patterns of magnitudes sort like the magnitudes, with infinity and NaN above all.
    var largest = 0u;
    for (var k = lane; k < p.x.c; k += WG) { largest = max(largest, bitcast<u32>(abs(load_x(row, scales, k)))); }
    sums[lane] = bitcast<f32>(largest);
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width { sums[lane] = max(sums[lane], sums[lane + width]); }
    }
    // 2^(14 - exponent), clamped to where it and its inverse are normal numbers.
    if lane == 0u { scratch[row] = bitcast<f32>(clamp(268u - (bitcast<u32>(sums[0]) >> 23u), 1u, 253u) << 23u); }
}

// Stores one matrix per subgroup from `sums`, with the fused epilogue.
fn store(subgroup: u32, here: u32, row0: u32, o0: u32, tile_row: u32) {
    workgroupBarrier();
    for (var i = here; i < 256u; i += 32u) {
        let row = row0 + tile_row + i / 16u;
        let o = o0 + i % 16u;
        if row < p.out.n * p.out.h * p.out.w && o < p.out.c {
            out[row * p.out.c + o] = epilogue(row, o, sums[subgroup * 256u + i] / powers[tile_row + i / 16u]);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) here: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    // The subgroup's rows and channels within the tile.
    let m = subgroup / 2u * 32u;
    let n = subgroup % 2u * 32u;
    if lane < TILE_M {
        let row = min(row0 + lane, p.out.n * p.out.h * p.out.w - 1u);
        powers[lane] = scratch[row];
        scales[lane] = row / (p.x.h * p.x.w) * p.x.c;
    }
    workgroupBarrier();

    var c00 = coop_mat16x16<f32, C>();
    var c01 = coop_mat16x16<f32, C>();
    var c10 = coop_mat16x16<f32, C>();
    var c11 = coop_mat16x16<f32, C>();
    for (var k0 = 0u; k0 < p.x.c; k0 += TILE_K) {
        for (var i = lane; i < TILE_M * TILE_K; i += WG) {
            let row = i / TILE_K;
            let k = i % TILE_K;
            tile_x[row * STRIDE + k] = f16(load_x(row0 + row, scales[row], k0 + k) * powers[row]);
        }
        for (var i = lane; i < TILE_N * TILE_K / 2u; i += WG) {
            let o = i / (TILE_K / 2u);
            let k = i % (TILE_K / 2u) * 2u;
            let w = clamp(load_w(o0 + o, k0 + k), vec2(-65504.0), vec2(65504.0));
            tile_w[o * STRIDE + k] = f16(w.x);
            tile_w[o * STRIDE + k + 1u] = f16(w.y);
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE_K; k += 16u) {
            let x0 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[m * STRIDE + k], STRIDE);
            let x1 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[(m + 16u) * STRIDE + k], STRIDE);
            // W is stored by output channels, so its transpose is column-major.
            let w0 = coopLoad<coop_mat16x16<f16, B>>(&tile_w[n * STRIDE + k], STRIDE);
            let w1 = coopLoad<coop_mat16x16<f16, B>>(&tile_w[(n + 16u) * STRIDE + k], STRIDE);
            c00 = coopMultiplyAdd(x0, w0, c00);
            c01 = coopMultiplyAdd(x0, w1, c01);
            c10 = coopMultiplyAdd(x1, w0, c10);
            c11 = coopMultiplyAdd(x1, w1, c11);
        }
        workgroupBarrier();
    }

    coopStoreT(c00, &sums[subgroup * 256u], 16u);
    store(subgroup, here, row0, o0 + n, m);
    coopStoreT(c01, &sums[subgroup * 256u], 16u);
    store(subgroup, here, row0, o0 + n + 16u, m);
    coopStoreT(c10, &sums[subgroup * 256u], 16u);
    store(subgroup, here, row0, o0 + n, m + 16u);
    coopStoreT(c11, &sums[subgroup * 256u], 16u);
    store(subgroup, here, row0, o0 + n + 16u, m + 16u);
}
