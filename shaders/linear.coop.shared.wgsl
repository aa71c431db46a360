// Shared by the variants of linear with cooperative matrices (tensor cores, WMMA, simdgroup matrices): tiles of f16 in
// workgroup memory, and the way from accumulators to results. A variant says how large its matrices are, M.
//
// A workgroup computes TILE_M rows x TILE_N channels in units of 32 x 32, one for each subgroup at a time. How many subgroups
// it has is known at run time only: with four, all units are computed at once, with two, one half after the other.

const WG: u32 = 128u;
const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 32u;
const UNIT: u32 = 32u;
const STRIDE: u32 = 40u; // elements per row of a tile: TILE_K, and 16 bytes of padding against bank conflicts
const HIGHEST: f32 = 65504.0; // of f16

@group(0) @binding(12) var<storage, read_write> scratch: array<f32>;

var<workgroup> tile_x: array<f16, 2560>; // [TILE_M][STRIDE]
var<workgroup> tile_w: array<f16, 2560>; // [TILE_N][STRIDE]
var<workgroup> sums: array<f32, 1280>;   // [5][M][M]: one matrix for each of four subgroups, and one for all others

// The power of two by which a row is multiplied: it brings the largest element to 2^14..2^15.
@compute @workgroup_size(WG)
fn ranges(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = part.first.x + id.x;
    if row >= rows() { return; }
    let k4 = p.x.c / 4u;
    let scales = scales_of(vec4(row)).x / 4u;
    // The bit patterns of magnitudes sort like the magnitudes, with infinity and NaN above all.
    var largest = vec4(0u);
    for (var k = lane; k < k4; k += WG) {
        var shifts = vec4(0u);
        var factors = vec4(1.0);
        if shift_kind != ABSENT { shifts = load_shift(k); }
        if scale_kind != ABSENT { factors = scale[scales + k]; }
        largest = max(largest, bitcast<vec4<u32>>(abs(prologue(x[row * k4 + k], factors, shifts))));
    }
    sums[lane] = bitcast<f32>(max(max(largest.x, largest.y), max(largest.z, largest.w)));
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width { sums[lane] = max(sums[lane], sums[lane + width]); }
    }
    // 2^(14 - exponent), clamped to where it and its inverse are normal numbers.
    if lane == 0u { scratch[row] = bitcast<f32>(clamp(268u - (bitcast<u32>(sums[0]) >> 23u), 1u, 253u) << 23u); }
}

// Four k of four rows of x, with their scales and shift, and of four output channels, on their way to the tiles.
struct Block {
    x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>,
    scale0: vec4<f32>, scale1: vec4<f32>, scale2: vec4<f32>, scale3: vec4<f32>,
    shift: vec4<u32>,
    w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>,
}

// Where a lane's four rows begin in x and in the scales, their powers of two, and where its output channels begin in W; in
// vec4. Rows and channels past the last are clamped to it; their results are not stored.
struct Source { row: vec4<u32>, scale: vec4<u32>, power: vec4<f32>, channel: vec4<u32> }

// Rows, or channels, of a tile for which a lane loads four k: 16 apart.
fn four_of(lane: u32) -> vec4<u32> { return lane / 8u + vec4(0u, 16u, 32u, 48u); }

fn source_of(lane: u32, row0: u32, o0: u32) -> Source {
    let row = min(row0 + four_of(lane), vec4(rows() - 1u));
    let o = min(o0 + four_of(lane), vec4(p.out.c - 1u));
    let power = vec4(scratch[row.x], scratch[row.y], scratch[row.z], scratch[row.w]);
    return Source(row * (p.x.c / 4u), scales_of(row) / 4u, power, o * (p.x.c / 4u));
}

// Loads four k, or the last four for those past the last, which are not used.
fn fetch(source: Source, k: u32) -> Block {
    var block: Block;
    let i = min(k, p.x.c - 4u) / 4u;
    block.x0 = x[source.row.x + i];
    block.x1 = x[source.row.y + i];
    block.x2 = x[source.row.z + i];
    block.x3 = x[source.row.w + i];
    if scale_kind != ABSENT {
        block.scale0 = scale[source.scale.x + i];
        block.scale1 = scale[source.scale.y + i];
        block.scale2 = scale[source.scale.z + i];
        block.scale3 = scale[source.scale.w + i];
    }
    if shift_kind != ABSENT { block.shift = load_shift(i); }
    block.w0 = load_w(source.channel.x + i);
    block.w1 = load_w(source.channel.y + i);
    block.w2 = load_w(source.channel.z + i);
    block.w3 = load_w(source.channel.w + i);
    return block;
}

fn put_x(at: u32, v: vec4<f32>) {
    let h = vec4<f16>(v);
    tile_x[at] = h.x;
    tile_x[at + 1u] = h.y;
    tile_x[at + 2u] = h.z;
    tile_x[at + 3u] = h.w;
}

fn put_w(at: u32, bits: vec4<u32>) {
    let h = vec4<f16>(clamp(four_elements(bits, weight_kind), vec4(-HIGHEST), vec4(HIGHEST)));
    tile_w[at] = h.x;
    tile_w[at + 1u] = h.y;
    tile_w[at + 2u] = h.z;
    tile_w[at + 3u] = h.w;
}

// Puts a block into the tiles; x is zero where `inside` is false.
fn fill_tiles(lane: u32, source: Source, block: Block, inside: bool) {
    let at = four_of(lane) * STRIDE + lane % 8u * 4u;
    put_x(at.x, select(vec4(0.0), prologue(block.x0, block.scale0, block.shift) * source.power.x, inside));
    put_x(at.y, select(vec4(0.0), prologue(block.x1, block.scale1, block.shift) * source.power.y, inside));
    put_x(at.z, select(vec4(0.0), prologue(block.x2, block.scale2, block.shift) * source.power.z, inside));
    put_x(at.w, select(vec4(0.0), prologue(block.x3, block.scale3, block.shift) * source.power.w, inside));
    put_w(at.x, block.w0);
    put_w(at.y, block.w1);
    put_w(at.z, block.w2);
    put_w(at.w, block.w3);
}

// Where a subgroup's matrix lies in `sums`.
fn place_of(subgroup: u32) -> u32 { return min(subgroup, 4u) * M * M; }

// Stores a subgroup's matrix from `sums`, whose first element is at (row0, o0), with the fused epilogue.
fn store(subgroup: u32, here: u32, width: u32, row0: u32, o0: u32) {
    workgroupBarrier();
    for (var i = here; i < M * M / 4u; i += width) {
        let row = row0 + i / (M / 4u);
        let o = o0 + i % (M / 4u) * 4u;
        let at = place_of(subgroup) + 4u * i;
        if row < rows() && o < p.out.c {
            let sum = vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
            out[(row * p.out.c + o) / 4u] = epilogue(row, o, sum / scratch[row]);
        }
    }
    workgroupBarrier();
}
