enable f16;
enable wgpu_cooperative_matrix;
// attention, for heads of 64 channels, with cooperative matrices of 16 x 16 x 16 (tensor cores, WMMA)
//
// Operands and result are those of attention.wgsl.
//
// Launch     one workgroup of WG lanes per TILE_Q tokens (x), head (y) and image (z).
// Memory     each workgroup reads its Q and writes its y once, K twice and V once, ceil(h*w / TILE_Q) times overall, all in
//            vec4. Scores exist for TILE_Q tokens x KEYS keys at a time, in workgroup memory.
// Numerics   Q / sqrt(d), K, V and the weights are rounded to f16; sums and the softmax are f32. The first round over all
//            keys finds the maximum of a token's scores and the second one adds up weights relative to it, so that sums,
//            which stay in matrices, need no rescaling. What exceeds f16, 65504, becomes infinite, and is found by the check
//            at the end of the stage.
// Needs      d = 64; f16; cooperative matrices of 16 x 16 x 16, f16 with f32 accumulators; 27.5 KiB of workgroup memory. Any
//            number of subgroups; with four all is done at once, with fewer the rounds are repeated for the next matrices.
// Tunables   none.
// Reference  src/ops/attention.rs
const WG: u32 = 128u;
const TILE_Q: u32 = 64u;
const KEYS: u32 = 32u;
const D: u32 = 64u;
const M: u32 = 16u;
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
var<workgroup> sums: array<f32, 2304>;    // [TILE_Q][STRIDE_S], scores; at the end [9][M][M], results
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

// Stores a subgroup's matrix number `t` of the results, divided by the sums of weights, from `sums`.
fn store(subgroup: u32, here: u32, width: u32, t: u32, token0: u32, image: u32, channel: u32) {
    workgroupBarrier();
    for (var i = here; i < M * M / 4u; i += width) {
        let row = t % 4u * M + i / (M / 4u);
        let token = token0 + row;
        if t < 16u && token < p.out.h * p.out.w {
            let at = min(subgroup, 8u) * M * M + 4u * i;
            let v = vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]) / (halves[2u * row] + halves[2u * row + 1u]);
            let column = t / 4u * M + i % (M / 4u) * 4u;
            out[((image * p.out.h * p.out.w + token) * p.out.c + channel + column) / 4u] = v;
        }
    }
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

// Scores of KEYS keys, from the keys that are staged: 4 x 2 matrices, shared out among the subgroups.
fn score(subgroup: u32, subgroups: u32) {
    for (var i = 0u; i < 8u; i += subgroups) {
        let m = (i + subgroup) % 4u * M;
        let n = (i + subgroup) / 4u % 2u * M;
        var s = coop_mat16x16<f32, C>();
        for (var k = 0u; k < D; k += M) {
            let q = coopLoadT<coop_mat16x16<f16, A>>(&tile_q[m * STRIDE + k], STRIDE);
            // Keys are stored one after the other, so their transpose is column-major.
            let w = coopLoad<coop_mat16x16<f16, B>>(&tile_kv[n * STRIDE + k], STRIDE);
            s = coopMultiplyAdd(q, w, s);
        }
        coopStoreT(s, &sums[m * STRIDE_S + n], STRIDE_S);
    }
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) here: u32,
) {
    let group = part.first + id;
    let tokens = p.out.h * p.out.w;
    let token0 = group.x * TILE_Q;
    let image = group.z;
    let channel = group.y * D; // the head's first
    for (var i = lane; i < TILE_Q * D / 4u; i += WG) {
        let token = min(token0 + i / 16u, tokens - 1u);
        let h = vec4<f16>(0.125 * x[((image * tokens + token) * p.x.c + channel) / 4u + i % 16u]);
        let at = i / 16u * STRIDE + i % 16u * 4u;
        tile_q[at] = h.x;
        tile_q[at + 1u] = h.y;
        tile_q[at + 2u] = h.z;
        tile_q[at + 3u] = h.w;
    }
    // In the softmax, two lanes share a token; each handles half of a tile's keys.
    let row = lane / 2u;
    let side = lane % 2u * (KEYS / 2u);
    // How many of its own keys the token attends to.
    var seen = tokens;
    if key_len_kind != ABSENT { seen = min(seen, key_len[image]); }
    if p.causal != 0u { seen = min(seen, token0 + row + 1u); }

    // The first round: the maximum.
    var highest = LOWEST;
    for (var source = 0u; source < 2u; source++) {
        let keys = keys_of(source, image, channel);
        let visible = select(seen, keys.count, keys.is_context);
        for (var key0 = 0u; key0 < count_of(keys, token0); key0 += KEYS) {
            stage(lane, keys, keys.k, key0);
            score(subgroup, subgroups);
            for (var i = side; i < side + KEYS / 2u; i++) {
                highest = max(highest, select(LOWEST, sums[row * STRIDE_S + i], key0 + i < visible));
            }
        }
    }
    halves[lane] = highest;
    workgroupBarrier();
    let maximum = max(halves[2u * row], halves[2u * row + 1u]);

    // The second: weights and values. There are 4 x 4 matrices of results; a subgroup has four at a time.
    for (var first = 0u; first < 16u; first += 4u * subgroups) {
        let t = first + subgroup;
        let t0 = t % 16u;
        let t1 = (t + subgroups) % 16u;
        let t2 = (t + 2u * subgroups) % 16u;
        let t3 = (t + 3u * subgroups) % 16u;
        var c0 = coop_mat16x16<f32, C>();
        var c1 = coop_mat16x16<f32, C>();
        var c2 = coop_mat16x16<f32, C>();
        var c3 = coop_mat16x16<f32, C>();
        var sum = 0.0;
        for (var source = 0u; source < 2u; source++) {
            let keys = keys_of(source, image, channel);
            let visible = select(seen, keys.count, keys.is_context);
            for (var key0 = 0u; key0 < count_of(keys, token0); key0 += KEYS) {
                stage(lane, keys, keys.k, key0);
                score(subgroup, subgroups);
                for (var i = side; i < side + KEYS / 2u; i++) {
                    // Every token attends to the first key, so `maximum` is a real score and masked keys get weight 0.
                    let weight = f16(select(0.0, exp(sums[row * STRIDE_S + i] - maximum), key0 + i < visible));
                    sum += f32(weight);
                    tile_p[row * STRIDE_P + i] = weight;
                }
                stage(lane, keys, keys.v, key0);
                for (var k = 0u; k < KEYS; k += M) {
                    let w0 = coopLoadT<coop_mat16x16<f16, A>>(&tile_p[t0 % 4u * M * STRIDE_P + k], STRIDE_P);
                    let w1 = coopLoadT<coop_mat16x16<f16, A>>(&tile_p[t1 % 4u * M * STRIDE_P + k], STRIDE_P);
                    let w2 = coopLoadT<coop_mat16x16<f16, A>>(&tile_p[t2 % 4u * M * STRIDE_P + k], STRIDE_P);
                    let w3 = coopLoadT<coop_mat16x16<f16, A>>(&tile_p[t3 % 4u * M * STRIDE_P + k], STRIDE_P);
                    let v0 = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[k * STRIDE + t0 / 4u * M], STRIDE);
                    let v1 = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[k * STRIDE + t1 / 4u * M], STRIDE);
                    let v2 = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[k * STRIDE + t2 / 4u * M], STRIDE);
                    let v3 = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[k * STRIDE + t3 / 4u * M], STRIDE);
                    c0 = coopMultiplyAdd(w0, v0, c0);
                    c1 = coopMultiplyAdd(w1, v1, c1);
                    c2 = coopMultiplyAdd(w2, v2, c2);
                    c3 = coopMultiplyAdd(w3, v3, c3);
                }
            }
        }
        workgroupBarrier();
        halves[lane] = sum;

        // One matrix of every subgroup at a time. Those from 16 on are repeated and not stored.
        coopStoreT(c0, &sums[min(subgroup, 8u) * M * M], M);
        store(subgroup, here, width, t, token0, image, channel);
        coopStoreT(c1, &sums[min(subgroup, 8u) * M * M], M);
        store(subgroup, here, width, t + subgroups, token0, image, channel);
        coopStoreT(c2, &sums[min(subgroup, 8u) * M * M], M);
        store(subgroup, here, width, t + 2u * subgroups, token0, image, channel);
        coopStoreT(c3, &sums[min(subgroup, 8u) * M * M], M);
        store(subgroup, here, width, t + 3u * subgroups, token0, image, channel);
    }
}
