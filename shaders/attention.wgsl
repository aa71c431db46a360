// attention: softmax(Q*K^T / sqrt(d))*V for each head; keys and values of the image and of its context
//
// x        [n, h, w, 3c] f32, arena: Q, K and V side by side; without own keys [n, h, w, c]: Q   binding 2
// context  [n, 1, s, 2c] f32, arena, optional: more keys and values, after the image's own       binding 3
// key_len  [1, 1, 1, n] u32, arena, optional: how many of its own keys an image attends to       binding 4
// out      [n, h, w, c] f32, arena, heads merged                                                 binding 1
//
// Launch     one workgroup of 8 x 8 lanes per TILE_Q tokens (x), head (y) and image (z).
// Memory     each workgroup reads its Q and writes its y once; K and V are read ceil(h*w / TILE_Q) times overall. Scores
//            exist for TILE_Q tokens x KEYS keys at a time, in workgroup memory.
// Numerics   f32, online softmax: the running maximum is subtracted before exp, and accumulators are rescaled when it
//            grows.
// Needs      nothing optional; 15.3 KiB of workgroup memory. Any d; beyond VALUES channels the scores are recomputed for
//            the next VALUES channels, so that accumulators stay in registers.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/attention.rs
const TILE_Q: u32 = 64u;
const KEYS: u32 = 32u;
const VALUES: u32 = 64u;
const TILE_K: u32 = 16u; // channels of Q and K, or keys of V, staged in workgroup memory per iteration
const STRIDE: u32 = 17u; // in vec4: 16 for 64 numbers, and one of padding against bank conflicts
const STRIDE_K: u32 = 9u;
const TILE_KEYS: u32 = 272u; // offset of the staged keys, after TILE_K * STRIDE of queries
const LOWEST: f32 = -3.0e38; // in place of -infinity, which WGSL does not guarantee
@id(1) override context_kind: u32;
@id(2) override key_len_kind: u32;

struct Params {
    out: Shape, x: Shape, context: Shape, key_len: Shape, heads: u32, head_dim: u32, self_part: u32, causal: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> context: array<f32>;
@group(0) @binding(4) var<storage, read_write> key_len: array<u32>;

var<workgroup> tile: array<vec4<f32>, 416>;   // queries [TILE_K][STRIDE] and keys [TILE_K][STRIDE_K]; later values
var<workgroup> scores: array<vec4<f32>, 544>; // [KEYS][STRIDE], four tokens per vec4
var<workgroup> factor: array<vec4<f32>, 16>;  // for rescaling accumulators, four tokens per vec4

// Number of the image's own keys; those of the context follow.
fn own() -> u32 {
    return select(0u, p.x.h * p.x.w, p.self_part != 0u);
}

fn load_q(image: u32, head: u32, token: u32, i: u32) -> f32 {
    let tokens = p.x.h * p.x.w;
    if token >= tokens || i >= p.head_dim { return 0.0; }
    return x[(image * tokens + token) * p.x.c + head * p.head_dim + i];
}

// Channel i of a key (part 0) or a value (part 1).
fn load_kv(part: u32, image: u32, head: u32, key: u32, i: u32) -> f32 {
    if key >= own() + p.context.w || i >= p.head_dim { return 0.0; }
    let channel = part * p.out.c + head * p.head_dim + i;
    if key < own() { return x[(image * own() + key) * p.x.c + p.out.c + channel]; }
    return context[(image * p.context.w + key - own()) * p.context.c + channel];
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_id) at: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = part.first + id;
    let tokens = p.out.h * p.out.w;
    let token0 = group.x * TILE_Q;
    let head = group.y;
    let image = group.z;
    let scale = inverseSqrt(f32(p.head_dim));
    // In the softmax, a lane handles four tokens and a quarter of a tile's keys.
    let four = lane % 16u;
    let quarter = lane / 16u * (KEYS / 4u);
    // How many of its own keys each of those four tokens attends to.
    var seen = vec4(own());
    if key_len_kind != ABSENT { seen = min(seen, vec4(key_len[image])); }
    if p.causal != 0u { seen = min(seen, token0 + 4u * four + vec4(1u, 2u, 3u, 4u)); }
    // In a causal attention without context, no token of this workgroup attends to keys after its last token.
    var keys = own() + p.context.w;
    if p.causal != 0u && p.context.w == 0u { keys = min(keys, token0 + TILE_Q); }

    for (var column0 = 0u; column0 < p.head_dim; column0 += VALUES) {
        // Accumulators of tokens 4y..4y+4 and 32+4y..: l for channels 4x..4x+4, r for channels 32+4x...
        var l0 = vec4(0.0); var l1 = vec4(0.0); var l2 = vec4(0.0); var l3 = vec4(0.0);
        var l4 = vec4(0.0); var l5 = vec4(0.0); var l6 = vec4(0.0); var l7 = vec4(0.0);
        var r0 = vec4(0.0); var r1 = vec4(0.0); var r2 = vec4(0.0); var r3 = vec4(0.0);
        var r4 = vec4(0.0); var r5 = vec4(0.0); var r6 = vec4(0.0); var r7 = vec4(0.0);
        var maximum = vec4(LOWEST); // running maximum of the scores of this lane's tokens
        var sum = vec4(0.0);        // running sum of this lane's weights

        for (var key0 = 0u; key0 < keys; key0 += KEYS) {
            // Scores of keys 4x.. and tokens 4y.. (a) or 32+4y.. (b).
            var a0 = vec4(0.0); var a1 = vec4(0.0); var a2 = vec4(0.0); var a3 = vec4(0.0);
            var b0 = vec4(0.0); var b1 = vec4(0.0); var b2 = vec4(0.0); var b3 = vec4(0.0);
            for (var d0 = 0u; d0 < p.head_dim; d0 += TILE_K) {
                for (var i = lane % 4u; i < TILE_K; i += 4u) {
                    let q = token0 + lane / 4u * 4u;
                    tile[i * STRIDE + lane / 4u] = vec4(
                        load_q(image, head, q, d0 + i), load_q(image, head, q + 1u, d0 + i),
                        load_q(image, head, q + 2u, d0 + i), load_q(image, head, q + 3u, d0 + i));
                }
                for (var i = lane % 8u; i < TILE_K; i += 8u) {
                    let k = key0 + lane / 8u * 4u;
                    tile[TILE_KEYS + i * STRIDE_K + lane / 8u] = vec4(
                        load_kv(0u, image, head, k, d0 + i), load_kv(0u, image, head, k + 1u, d0 + i),
                        load_kv(0u, image, head, k + 2u, d0 + i), load_kv(0u, image, head, k + 3u, d0 + i));
                }
                workgroupBarrier();
                for (var i = 0u; i < TILE_K; i++) {
                    let a = tile[i * STRIDE + at.y];
                    let b = tile[i * STRIDE + 8u + at.y];
                    let k = tile[TILE_KEYS + i * STRIDE_K + at.x];
                    a0 = fma(k.xxxx, a, a0); b0 = fma(k.xxxx, b, b0);
                    a1 = fma(k.yyyy, a, a1); b1 = fma(k.yyyy, b, b1);
                    a2 = fma(k.zzzz, a, a2); b2 = fma(k.zzzz, b, b2);
                    a3 = fma(k.wwww, a, a3); b3 = fma(k.wwww, b, b3);
                }
                workgroupBarrier();
            }
            let first = 4u * at.x * STRIDE + at.y;
            scores[first] = a0; scores[first + 8u] = b0;
            scores[first + STRIDE] = a1; scores[first + STRIDE + 8u] = b1;
            scores[first + 2u * STRIDE] = a2; scores[first + 2u * STRIDE + 8u] = b2;
            scores[first + 3u * STRIDE] = a3; scores[first + 3u * STRIDE + 8u] = b3;
            workgroupBarrier();

            // The softmax: from scores to weights relative to the maximum so far.
            var tile_maximum = vec4(LOWEST);
            for (var i = quarter; i < quarter + KEYS / 4u; i++) {
                let key = vec4(key0 + i);
                let sees = (key < seen) | ((key >= vec4(own())) & (key < vec4(keys)));
                let score = select(vec4(LOWEST), scores[i * STRIDE + four] * scale, sees);
                scores[i * STRIDE + four] = score;
                tile_maximum = max(tile_maximum, score);
            }
            tile[lane] = tile_maximum;
            workgroupBarrier();
            let before = maximum;
            maximum = max(max(maximum, tile[four]), max(tile[four + 16u], max(tile[four + 32u], tile[four + 48u])));
            let rescale = exp(before - maximum);
            sum *= rescale;
            for (var i = quarter; i < quarter + KEYS / 4u; i++) {
                // Every token attends to the first key, so `highest` is a real score and masked keys get weight 0.
                let weight = exp(scores[i * STRIDE + four] - maximum);
                scores[i * STRIDE + four] = weight;
                sum += weight;
            }
            if quarter == 0u { factor[four] = rescale; }
            workgroupBarrier();

            let fa = factor[at.y];
            let fb = factor[8u + at.y];
            l0 *= fa.x; l1 *= fa.y; l2 *= fa.z; l3 *= fa.w; l4 *= fb.x; l5 *= fb.y; l6 *= fb.z; l7 *= fb.w;
            r0 *= fa.x; r1 *= fa.y; r2 *= fa.z; r3 *= fa.w; r4 *= fb.x; r5 *= fb.y; r6 *= fb.z; r7 *= fb.w;
            for (var half = 0u; half < KEYS; half += TILE_K) {
                for (var i = lane / 16u; i < TILE_K; i += 4u) {
                    let key = key0 + half + i;
                    let v = column0 + lane % 16u * 4u;
                    tile[i * STRIDE + lane % 16u] = vec4(
                        load_kv(1u, image, head, key, v), load_kv(1u, image, head, key, v + 1u),
                        load_kv(1u, image, head, key, v + 2u), load_kv(1u, image, head, key, v + 3u));
                }
                workgroupBarrier();
                for (var i = 0u; i < TILE_K; i++) {
                    let a = scores[(half + i) * STRIDE + at.y];
                    let b = scores[(half + i) * STRIDE + 8u + at.y];
                    let l = tile[i * STRIDE + at.x];
                    let r = tile[i * STRIDE + 8u + at.x];
                    l0 = fma(a.xxxx, l, l0); r0 = fma(a.xxxx, r, r0);
                    l1 = fma(a.yyyy, l, l1); r1 = fma(a.yyyy, r, r1);
                    l2 = fma(a.zzzz, l, l2); r2 = fma(a.zzzz, r, r2);
                    l3 = fma(a.wwww, l, l3); r3 = fma(a.wwww, r, r3);
                    l4 = fma(b.xxxx, l, l4); r4 = fma(b.xxxx, r, r4);
                    l5 = fma(b.yyyy, l, l5); r5 = fma(b.yyyy, r, r5);
                    l6 = fma(b.zzzz, l, l6); r6 = fma(b.zzzz, r, r6);
                    l7 = fma(b.wwww, l, l7); r7 = fma(b.wwww, r, r7);
                }
                workgroupBarrier();
            }
        }

        tile[lane] = sum;
        workgroupBarrier();
        if quarter == 0u { factor[four] = 1.0 / (tile[four] + tile[four + 16u] + tile[four + 32u] + tile[four + 48u]); }
        workgroupBarrier();
        for (var i = 0u; i < 8u; i++) {
            var l = l0;
            var r = r0;
            switch i {
                case 1u: { l = l1; r = r1; }
                case 2u: { l = l2; r = r2; }
                case 3u: { l = l3; r = r3; }
                case 4u: { l = l4; r = r4; }
                case 5u: { l = l5; r = r5; }
                case 6u: { l = l6; r = r6; }
                case 7u: { l = l7; r = r7; }
                default: {}
            }
            let row = i / 4u * 32u + 4u * at.y + i % 4u;
            for (var j = 0u; j < 8u; j++) {
                let column = column0 + j / 4u * 32u + 4u * at.x + j % 4u;
                if token0 + row < tokens && column < p.head_dim {
                    let y = select(l, r, j >= 4u)[j % 4u] * factor[row / 4u][row % 4u];
                    out[(image * tokens + token0 + row) * p.out.c + head * p.head_dim + column] = y;
                }
            }
        }
        workgroupBarrier();
    }
}
