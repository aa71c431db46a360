// linear, for channels that are multiples of four
//
// Operands and result are those of linear.wgsl.
//
// Launch     one workgroup of SIDE x SIDE lanes per TILE_M rows (y) and TILE_N channels (x); a lane has 8 rows x 8 channels.
// Memory     x is read ceil(o / TILE_N) times, W ceil(rows / TILE_M) times, both in vec4; y is written once. All loads of a
//            tile are issued together, before the product of the tile before.
// Numerics   f32; weights are widened exactly.
// Needs      K and o multiples of 4; 8 KiB of workgroup memory, 16 KiB with SIDE 16.
// Tunables   SIDE: 8 or 16.
// Reference  src/ops/linear.rs

// Four k of rows of x, with their scales and shift, and of output channels, on their way to the tiles: four of both, or with
// SIDE 16, where there are twice as many lanes as tiles have such blocks, two.
struct Block {
    x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>,
    scale0: vec4<f32>, scale1: vec4<f32>, scale2: vec4<f32>, scale3: vec4<f32>,
    shift: vec4<u32>,
    w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>,
}

// Where a lane's rows begin in x and in the scales, and its output channels in W; in vec4.
struct Source { row: vec4<u32>, scale: vec4<u32>, channel: vec4<u32> }

// Loads four k, or the last four for those past the last, which are not used.
fn fetch(source: Source, k: u32) -> Block {
    var block: Block;
    let i = min(k, p.x.c - 4u) / 4u;
    block.x0 = x[source.row.x + i];
    block.x1 = x[source.row.y + i];
    block.w0 = load_w(source.channel.x + i);
    block.w1 = load_w(source.channel.y + i);
    if SIDE == 8u {
        block.x2 = x[source.row.z + i];
        block.x3 = x[source.row.w + i];
        block.w2 = load_w(source.channel.z + i);
        block.w3 = load_w(source.channel.w + i);
    }
    if scale_kind != ABSENT {
        block.scale0 = scale[source.scale.x + i];
        block.scale1 = scale[source.scale.y + i];
        if SIDE == 8u {
            block.scale2 = scale[source.scale.z + i];
            block.scale3 = scale[source.scale.w + i];
        }
    }
    if shift_kind != ABSENT { block.shift = load_shift(i); }
    return block;
}

// Puts a block into the tiles; x is zero where `inside` is false. `at` is the place of the block's first k, `half` which two
// of four rows and channels it has with SIDE 16.
fn fill_tiles(at: u32, half: u32, block: Block, inside: bool) {
    let a = select(vec4(0.0), prologue(block.x0, block.scale0, block.shift), inside);
    let b = select(vec4(0.0), prologue(block.x1, block.scale1, block.shift), inside);
    let v = four_elements(block.w0, weight_kind);
    let w = four_elements(block.w1, weight_kind);
    if SIDE == 8u {
        let c = select(vec4(0.0), prologue(block.x2, block.scale2, block.shift), inside);
        let d = select(vec4(0.0), prologue(block.x3, block.scale3, block.shift), inside);
        fill_x(at, a, b, c, d);
        fill_w(at, v, w, four_elements(block.w2, weight_kind), four_elements(block.w3, weight_kind));
    } else {
        tile_x[2u * (at) + half] = vec2(a.x, b.x);
        tile_x[2u * (at + QUADS) + half] = vec2(a.y, b.y);
        tile_x[2u * (at + 2u * QUADS) + half] = vec2(a.z, b.z);
        tile_x[2u * (at + 3u * QUADS) + half] = vec2(a.w, b.w);
        tile_w[2u * (at) + half] = vec2(v.x, w.x);
        tile_w[2u * (at + QUADS) + half] = vec2(v.y, w.y);
        tile_w[2u * (at + 2u * QUADS) + half] = vec2(v.z, w.z);
        tile_w[2u * (at + 3u * QUADS) + half] = vec2(v.w, w.w);
    }
}

@compute @workgroup_size(SIDE, SIDE)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    var acc = Accumulator();

    // A lane's block within the tiles: neighbours have neighbouring k of the same rows.
    let k = lane % 4u * 4u;
    let quad = select(lane / 8u, lane / 4u, SIDE == 8u);
    let half = select(lane / 4u % 2u, 0u, SIDE == 8u);
    // Rows and channels past the last are clamped to it; their results are not stored.
    let first = 4u * quad + 2u * half + vec4(0u, 1u, 2u, 3u);
    let row = min(row0 + first, vec4(rows() - 1u));
    let o = min(o0 + first, vec4(p.out.c - 1u));
    let source = Source(row * (p.x.c / 4u), scales_of(row) / 4u, o * (p.x.c / 4u));

    var next = fetch(source, k);
    for (var k0 = 0u; k0 < p.x.c; k0 += TILE_K) {
        fill_tiles(place(k, quad), half, next, k0 + k < p.x.c);
        workgroupBarrier();
        next = fetch(source, k0 + TILE_K + k);
        multiply_tiles(&acc, at);
        workgroupBarrier();
    }

    for (var i = 0u; i < 8u; i++) {
        let row = row0 + tile_row(at, i);
        for (var half = 0u; half < 2u; half++) {
            let o = o0 + tile_output(at, 4u * half);
            if row < rows() && o < p.out.c {
                out[(row * p.out.c + o) / 4u] = epilogue(row, o, results_of(&acc, i, half));
            }
        }
    }
}
