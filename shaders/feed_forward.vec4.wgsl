// feed_forward, for channels that are multiples of four: two products, over bands of rows
//
// Operands and result are those of feed_forward.wgsl.
// scratch  [BAND, m] f32, the hidden activations of a band; then [BAND, 4]: mean and factor of its norms  binding 12
//
// Launch     for each BAND rows one pass after the other. norms: 8 lanes per row, NORM_ROWS rows per workgroup. hidden and
//            main: one workgroup of 8 x 8 lanes per TILE_M rows (y) and TILE_N channels (x); a lane has 8 rows x 8 channels.
// Memory     x is read ceil(m / TILE_N) + 3 times and the hidden activations ceil(c / TILE_N) times, W0 and W2
//            ceil(rows / TILE_M) times, all in vec4 and, but for the first time, mostly from cache: a band is small enough
//            for the larger ones. y is written once.
// Numerics   f32; mean and variance in two passes; weights are widened exactly.
// Needs      c and m multiples of 4; 8.3 KiB of workgroup memory.
// Tunables   BAND, a multiple of TILE_M.
// Reference  src/ops/feed_forward.rs
override BAND: u32 = 512u;
const NORM_ROWS: u32 = 8u;

@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> w0: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> b0: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> w2: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read> b2: array<vec2<u32>>;
@group(0) @binding(12) var<storage, read_write> scratch: array<vec4<f32>>;

var<workgroup> partial: array<f32, 64>; // [NORM_ROWS][8]

// Four k of four rows and of four output channels, on their way to the tiles.
struct Block {
    x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>,
}

fn rows() -> u32 { return p.out.n * p.out.h * p.out.w; }

// In these and below, i counts vec4.
fn load_x(i: u32) -> vec4<f32> {
    if x_kind == IN_PLACE { return out[i]; }
    return x[i];
}

fn load_w0(i: u32) -> vec4<u32> {
    if w0_kind == F32 { return vec4(w0[2u * i], w0[2u * i + 1u]); }
    return vec4(w0[i], 0u, 0u);
}

fn load_w2(i: u32) -> vec4<u32> {
    if w2_kind == F32 { return vec4(w2[2u * i], w2[2u * i + 1u]); }
    return vec4(w2[i], 0u, 0u);
}

fn load_b0(i: u32) -> vec4<f32> {
    if b0_kind == F32 { return four_elements(vec4(b0[2u * i], b0[2u * i + 1u]), b0_kind); }
    return four_elements(vec4(b0[i], 0u, 0u), b0_kind);
}

fn load_b2(i: u32) -> vec4<f32> {
    if b2_kind == F32 { return four_elements(vec4(b2[2u * i], b2[2u * i + 1u]), b2_kind); }
    return four_elements(vec4(b2[i], 0u, 0u), b2_kind);
}

// Where the numbers of a row's norm lie.
fn norm_at(row: vec4<u32>) -> vec4<u32> { return BAND * (p.w0.w / 4u) + row % BAND; }

// Sum over the eight lanes of a row, returned in each of them.
fn row_sum(lane: u32, v: f32) -> f32 {
    workgroupBarrier();
    partial[lane] = v;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) { sum += partial[lane / 8u * 8u + i]; }
    return sum;
}

@compute @workgroup_size(64)
fn norms(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (part.first.y + id.y) * NORM_ROWS + lane / 8u;
    let c = p.out.c / 4u;
    let base = min(row, rows() - 1u) * c; // no lane exits, because all must reach the barriers
    var sum = 0.0;
    for (var i = lane % 8u; i < c; i += 8u) { sum += dot(load_x(base + i), vec4(1.0)); }
    let mean = row_sum(lane, sum) / f32(p.out.c);
    sum = 0.0;
    for (var i = lane % 8u; i < c; i += 8u) {
        let d = load_x(base + i) - mean;
        sum += dot(d, d);
    }
    let factor = inverseSqrt(row_sum(lane, sum) / f32(p.out.c) + p.eps) * (1.0 + gamma(3u));
    if lane % 8u == 0u && row < rows() { scratch[norm_at(vec4(row)).x] = vec4(mean, factor, 0.0, 0.0); }
}

// A lane's block within the tiles: neighbours have neighbouring k of the same four rows or channels.
fn block_of(lane: u32) -> vec4<u32> { return lane / 4u * 4u + vec4(0u, 1u, 2u, 3u); }

// Loads four k of x and W0, or the last four for those past the last, which are not used.
fn fetch_hidden(row: vec4<u32>, o: vec4<u32>, k: u32) -> Block {
    let c = p.out.c / 4u;
    let i = min(k, p.out.c - 4u) / 4u;
    return Block(
        load_x(row.x * c + i), load_x(row.y * c + i), load_x(row.z * c + i), load_x(row.w * c + i),
        load_w0(o.x * c + i), load_w0(o.y * c + i), load_w0(o.z * c + i), load_w0(o.w * c + i));
}

// The same for the hidden activations and W2.
fn fetch_main(row: vec4<u32>, o: vec4<u32>, k: u32) -> Block {
    let m = p.w0.w / 4u;
    let i = min(k, p.w0.w - 4u) / 4u;
    return Block(
        scratch[row.x * m + i], scratch[row.y * m + i], scratch[row.z * m + i], scratch[row.w * m + i],
        load_w2(o.x * m + i), load_w2(o.y * m + i), load_w2(o.z * m + i), load_w2(o.w * m + i));
}

@compute @workgroup_size(8, 8)
fn hidden(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    // Rows and channels past the last are clamped to it; their results are not stored.
    let row = min(row0 + block_of(lane), vec4(rows() - 1u));
    let o = min(o0 + block_of(lane), vec4(p.w0.w - 1u));
    let k = lane % 4u * 4u;
    let norm = norm_at(row);
    let a = scratch[norm.x].xy;
    let b = scratch[norm.y].xy;
    let c = scratch[norm.z].xy;
    let d = scratch[norm.w].xy;
    let shift = gamma(4u);

    var acc = Accumulator();
    var next = fetch_hidden(row, o, k);
    for (var k0 = 0u; k0 < p.out.c; k0 += TILE_K) {
        let inside = k0 + k < p.out.c;
        fill_x(
            place(k, lane / 4u),
            select(vec4(0.0), (next.x0 - a.x) * a.y + shift, inside), select(vec4(0.0), (next.x1 - b.x) * b.y + shift, inside),
            select(vec4(0.0), (next.x2 - c.x) * c.y + shift, inside), select(vec4(0.0), (next.x3 - d.x) * d.y + shift, inside));
        fill_w(
            place(k, lane / 4u),
            four_elements(next.w0, w0_kind), four_elements(next.w1, w0_kind),
            four_elements(next.w2, w0_kind), four_elements(next.w3, w0_kind));
        workgroupBarrier();
        next = fetch_hidden(row, o, k0 + TILE_K + k);
        multiply_tiles(&acc, at);
        workgroupBarrier();
    }

    for (var i = 0u; i < 8u; i++) {
        let row = row0 + tile_row(at, i);
        for (var half = 0u; half < 2u; half++) {
            let o = o0 + tile_output(at, 4u * half);
            if row < rows() && o < p.w0.w {
                let v = results_of(&acc, i, half) + load_b0(o / 4u);
                scratch[(row % BAND * p.w0.w + o) / 4u] =
                    vec4(apply(GELU_ERF, v.x), apply(GELU_ERF, v.y), apply(GELU_ERF, v.z), apply(GELU_ERF, v.w));
            }
        }
    }
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let row0 = group.y * TILE_M;
    let o0 = group.x * TILE_N;
    let row = min(row0 + block_of(lane), vec4(rows() - 1u)) % BAND;
    let o = min(o0 + block_of(lane), vec4(p.out.c - 1u));
    let k = lane % 4u * 4u;

    var acc = Accumulator();
    var next = fetch_main(row, o, k);
    for (var k0 = 0u; k0 < p.w0.w; k0 += TILE_K) {
        let inside = k0 + k < p.w0.w;
        fill_x(
            place(k, lane / 4u),
            select(vec4(0.0), next.x0, inside), select(vec4(0.0), next.x1, inside),
            select(vec4(0.0), next.x2, inside), select(vec4(0.0), next.x3, inside));
        fill_w(
            place(k, lane / 4u),
            four_elements(next.w0, w2_kind), four_elements(next.w1, w2_kind),
            four_elements(next.w2, w2_kind), four_elements(next.w3, w2_kind));
        workgroupBarrier();
        next = fetch_main(row, o, k0 + TILE_K + k);
        multiply_tiles(&acc, at);
        workgroupBarrier();
    }

    for (var i = 0u; i < 8u; i++) {
        let row = row0 + tile_row(at, i);
        for (var half = 0u; half < 2u; half++) {
            let o = o0 + tile_output(at, 4u * half);
            if row < rows() && o < p.out.c {
                let y = (row * p.out.c + o) / 4u;
                out[y] = load_x(y) + gamma(5u) * (results_of(&acc, i, half) + load_b2(o / 4u));
            }
        }
    }
}
