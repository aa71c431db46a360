// Shared by the variants of attention with cooperative matrices (tensor cores, WMMA, simdgroup matrices): operands, tiles of
// f16 in workgroup memory, the softmax, and the way from accumulators to results. A variant says how large its matrices are, M,
// and multiplies: `score` is its own.
//
// A workgroup computes TILE_Q tokens x D channels in units of 32 x 32, one for each subgroup at a time. How many subgroups it has
// is known at run time only: with four, all units are computed at once, with two, one half after the other.

const WG: u32 = 128u;
const TILE_Q: u32 = 64u;
const KEYS: u32 = 32u;
const D: u32 = 64u;
const UNIT: u32 = 32u;
const STRIP: u32 = 16u;    // tokens for which a subgroup computes scores at a time
const STRIDE: u32 = 72u;   // elements per token, key or value: D, and 16 bytes of padding against bank conflicts
const STRIDE_P: u32 = 40u; // weights per token: KEYS, and padding
const STRIDE_S: u32 = 36u; // scores per token: KEYS, and padding
const LOWEST: f32 = -3.0e38; // in place of -infinity, which WGSL does not guarantee
@id(1) override context_kind: u32;
@id(2) override key_len_kind: u32;

struct Params {
    out: Shape, x: Shape, context: Shape, key_len: Shape, heads: u32, head_dim: u32, self_part: u32, causal: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> context: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> key_len: array<u32>;

var<workgroup> tile_q: array<f16, 4608>;  // [TILE_Q][STRIDE]
var<workgroup> tile_kv: array<f16, 2304>; // [KEYS][STRIDE], keys, then values
var<workgroup> tile_p: array<f16, 2560>;  // [TILE_Q][STRIDE_P], weights
var<workgroup> sums: array<f32, 2304>;    // [TILE_Q][STRIDE_S], scores; at the end [5][M][M], results
var<workgroup> halves: array<f32, 128>;   // [TILE_Q][2], of what two lanes know of a token

// The keys of the image itself, or those of the context: in vec4, where the first one's K and V lie, and the next one's
// after it; how many there are.
struct Keys { is_context: bool, k: u32, v: u32, stride: u32, count: u32 }

fn put_kv(at: u32, v: vec4<f32>) {
    let h = vec4<f16>(v);
    tile_kv[at] = h.x;
    tile_kv[at + 1u] = h.y;
    tile_kv[at + 2u] = h.z;
    tile_kv[at + 3u] = h.w;
}

// Stages K or V, which begins at `first`, of KEYS keys: four channels of every eighth key for each lane. Keys past the last
// are the last; they are masked, or have weight 0.
fn stage(lane: u32, keys: Keys, first: u32, key0: u32) {
    let key = key0 + lane / 16u + vec4(0u, 8u, 16u, 24u);
    let i = first + min(key, vec4(keys.count - 1u)) * keys.stride + lane % 16u;
    var a: vec4<f32>;
    var b: vec4<f32>;
    var c: vec4<f32>;
    var d: vec4<f32>;
    if keys.is_context {
        a = context[i.x];
        b = context[i.y];
        c = context[i.z];
        d = context[i.w];
    } else {
        a = x[i.x];
        b = x[i.y];
        c = x[i.z];
        d = x[i.w];
    }
    workgroupBarrier(); // what was staged before has been used
    let at = lane / 16u * STRIDE + lane % 16u * 4u;
    put_kv(at, a);
    put_kv(at + 8u * STRIDE, b);
    put_kv(at + 16u * STRIDE, c);
    put_kv(at + 24u * STRIDE, d);
    workgroupBarrier();
}

// The image's own keys (source 0), or those of the context (source 1).
fn keys_of(source: u32, image: u32, channel: u32) -> Keys {
    if source == 1u {
        let base = image * p.context.w * p.context.c + channel;
        return Keys(true, base / 4u, (base + p.out.c) / 4u, p.context.c / 4u, p.context.w);
    }
    let own = select(0u, p.x.h * p.x.w, p.self_part != 0u);
    let base = image * own * p.x.c + channel;
    return Keys(false, (base + p.out.c) / 4u, (base + 2u * p.out.c) / 4u, p.x.c / 4u, own);
}

// How many of these keys any token of a workgroup attends to: in a causal attention none of its own after its last token.
fn count_of(keys: Keys, token0: u32) -> u32 {
    return select(keys.count, min(keys.count, token0 + TILE_Q), p.causal != 0u && !keys.is_context);
}

// What a workgroup computes, and a lane's part in the softmax: one token, and from which key of a tile on. Two lanes share a
// token. `seen` is how many of the image's own keys it attends to.
struct Place { image: u32, token0: u32, channel: u32, row: u32, side: u32, seen: u32 }

// Stages Q / sqrt(D).
fn begin(group: vec3<u32>, lane: u32) -> Place {
    let tokens = p.out.h * p.out.w;
    let token0 = group.x * TILE_Q;
    let channel = group.y * D; // the head's first
    for (var i = lane; i < TILE_Q * D / 4u; i += WG) {
        let token = min(token0 + i / 16u, tokens - 1u);
        let h = vec4<f16>(0.125 * x[((group.z * tokens + token) * p.x.c + channel) / 4u + i % 16u]);
        let at = i / 16u * STRIDE + i % 16u * 4u;
        tile_q[at] = h.x;
        tile_q[at + 1u] = h.y;
        tile_q[at + 2u] = h.z;
        tile_q[at + 3u] = h.w;
    }
    let row = lane / 2u;
    var seen = tokens;
    if key_len_kind != ABSENT { seen = min(seen, key_len[group.z]); }
    if p.causal != 0u { seen = min(seen, token0 + row + 1u); }
    return Place(group.z, token0, channel, row, lane % 2u * (KEYS / 2u), seen);
}

// How many of these keys the lane's token attends to.
fn visible(at: Place, keys: Keys) -> u32 { return select(at.seen, keys.count, keys.is_context); }

// The first round over all keys: the maximum of the scores of the lane's token.
fn maximum(at: Place, lane: u32, subgroup: u32, subgroups: u32) -> f32 {
    var highest = LOWEST;
    for (var source = 0u; source < 2u; source++) {
        let keys = keys_of(source, at.image, at.channel);
        for (var key0 = 0u; key0 < count_of(keys, at.token0); key0 += KEYS) {
            stage(lane, keys, keys.k, key0);
            score(subgroup, subgroups);
            for (var i = at.side; i < at.side + KEYS / 2u; i++) {
                highest = max(highest, select(LOWEST, sums[at.row * STRIDE_S + i], key0 + i < visible(at, keys)));
            }
        }
    }
    halves[lane] = highest;
    workgroupBarrier();
    return max(halves[2u * at.row], halves[2u * at.row + 1u]);
}

// From the scores of KEYS keys to the weights of the lane's token relative to its maximum, and their sum. Every token attends
// to the first key, so the maximum is a real score and masked keys get weight 0.
fn weigh(at: Place, keys: Keys, key0: u32, highest: f32) -> f32 {
    var sum = 0.0;
    for (var i = at.side; i < at.side + KEYS / 2u; i++) {
        let weight = f16(select(0.0, exp(sums[at.row * STRIDE_S + i] - highest), key0 + i < visible(at, keys)));
        sum += f32(weight);
        tile_p[at.row * STRIDE_P + i] = weight;
    }
    return sum;
}

// Where a subgroup's matrix lies in `sums`: those of four subgroups, and one for all others.
fn place_of(subgroup: u32) -> u32 { return min(subgroup, 4u) * M * M; }

// Stores a subgroup's matrix from `sums`, divided by the sums of weights. Its first element is that of `row` and `column`
// within the tile; from TILE_Q on, rows are not stored.
fn store(subgroup: u32, here: u32, width: u32, at: Place, row: u32, column: u32) {
    workgroupBarrier();
    for (var i = here; i < M * M / 4u; i += width) {
        let r = row + i / (M / 4u);
        let token = at.token0 + r;
        if r < TILE_Q && token < p.out.h * p.out.w {
            let i0 = place_of(subgroup) + 4u * i;
            let v = vec4(sums[i0], sums[i0 + 1u], sums[i0 + 2u], sums[i0 + 3u]) / (halves[2u * r] + halves[2u * r + 1u]);
            let c = at.channel + column + i % (M / 4u) * 4u;
            out[((at.image * p.out.h * p.out.w + token) * p.out.c + c) / 4u] = v;
        }
    }
    workgroupBarrier();
}
