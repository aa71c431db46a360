// attention, for heads whose channels are multiples of four
//
// Operands and result are those of attention.wgsl.
//
// Launch     one workgroup of 8 x 8 lanes per TILE_Q tokens (x), head (y) and image (z).
// Memory     each workgroup reads its Q and writes its y once, K and V are read ceil(h*w / TILE_Q) times overall, all in
//            vec4. Scores exist for TILE_Q tokens x KEYS keys at a time, in workgroup memory.
// Numerics   f32, online softmax: the running maximum is subtracted before exp, and accumulators are rescaled when it
//            grows.
// Needs      d a multiple of 4; 15.1 KiB of workgroup memory. Beyond VALUES channels the scores are recomputed for the next
//            VALUES channels, so that accumulators stay in registers.
// Tunables   none: the register tile is written out as scalars, because an array indexed at run time would go to memory.
// Reference  src/ops/attention.rs
const TILE_Q: u32 = 64u;
const KEYS: u32 = 32u;
const VALUES: u32 = 64u;
const TILE_K: u32 = 16u; // channels of Q and K, or keys of V, staged in workgroup memory per iteration
const STRIDE: u32 = 17u; // per channel, key or value: 16 for 64 numbers in vec4, or 32 in vec2, and padding against bank conflicts
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

var<workgroup> tile: array<vec4<f32>, 272>;      // queries [TILE_K][STRIDE], four tokens per vec4; later values
var<workgroup> tile_keys: array<vec2<f32>, 272>; // [TILE_K][STRIDE], two keys per vec2
var<workgroup> scores: array<vec4<f32>, 544>;    // [KEYS][STRIDE], four tokens per vec4
var<workgroup> factor: array<vec4<f32>, 16>;     // for rescaling accumulators, four tokens per vec4

// The keys of the image itself, or those of the context: in vec4, where the first one's K and V lie, and the next one's
// after it; how many there are.
struct Keys { is_context: bool, k: u32, v: u32, stride: u32, count: u32 }

// Scores of keys 4x.. and tokens 4y.. (a) or 32+4y.. (b).
struct Scores {
    a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>,
}

// Sums of tokens 4y..4y+4 and 32+4y..: l for channels 4x..4x+4, r for channels 32+4x...
struct Accumulator {
    l0: vec4<f32>, l1: vec4<f32>, l2: vec4<f32>, l3: vec4<f32>, l4: vec4<f32>, l5: vec4<f32>, l6: vec4<f32>, l7: vec4<f32>,
    r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>, r4: vec4<f32>, r5: vec4<f32>, r6: vec4<f32>, r7: vec4<f32>,
}

// Adds the products of staged channel i of Q and K.
fn multiply_keys(s: ptr<function, Scores>, at: vec3<u32>, i: u32) {
    let a = tile[i * STRIDE + at.y];
    let b = tile[i * STRIDE + 8u + at.y];
    let k = vec4(tile_keys[i * STRIDE + 2u * at.x], tile_keys[i * STRIDE + 2u * at.x + 1u]);
    (*s).a0 = fma(k.xxxx, a, (*s).a0); (*s).b0 = fma(k.xxxx, b, (*s).b0);
    (*s).a1 = fma(k.yyyy, a, (*s).a1); (*s).b1 = fma(k.yyyy, b, (*s).b1);
    (*s).a2 = fma(k.zzzz, a, (*s).a2); (*s).b2 = fma(k.zzzz, b, (*s).b2);
    (*s).a3 = fma(k.wwww, a, (*s).a3); (*s).b3 = fma(k.wwww, b, (*s).b3);
}

// Adds the products of the weights of key `first + i` of a tile and the values of staged key i.
fn multiply_values(s: ptr<function, Accumulator>, at: vec3<u32>, first: u32, i: u32) {
    let a = scores[(first + i) * STRIDE + at.y];
    let b = scores[(first + i) * STRIDE + 8u + at.y];
    let l = tile[i * STRIDE + at.x];
    let r = tile[i * STRIDE + 8u + at.x];
    (*s).l0 = fma(a.xxxx, l, (*s).l0); (*s).r0 = fma(a.xxxx, r, (*s).r0);
    (*s).l1 = fma(a.yyyy, l, (*s).l1); (*s).r1 = fma(a.yyyy, r, (*s).r1);
    (*s).l2 = fma(a.zzzz, l, (*s).l2); (*s).r2 = fma(a.zzzz, r, (*s).r2);
    (*s).l3 = fma(a.wwww, l, (*s).l3); (*s).r3 = fma(a.wwww, r, (*s).r3);
    (*s).l4 = fma(b.xxxx, l, (*s).l4); (*s).r4 = fma(b.xxxx, r, (*s).r4);
    (*s).l5 = fma(b.yyyy, l, (*s).l5); (*s).r5 = fma(b.yyyy, r, (*s).r5);
    (*s).l6 = fma(b.zzzz, l, (*s).l6); (*s).r6 = fma(b.zzzz, r, (*s).r6);
    (*s).l7 = fma(b.wwww, l, (*s).l7); (*s).r7 = fma(b.wwww, r, (*s).r7);
}

fn rescale(s: ptr<function, Accumulator>, a: vec4<f32>, b: vec4<f32>) {
    (*s).l0 *= a.x; (*s).l1 *= a.y; (*s).l2 *= a.z; (*s).l3 *= a.w; (*s).l4 *= b.x; (*s).l5 *= b.y; (*s).l6 *= b.z; (*s).l7 *= b.w;
    (*s).r0 *= a.x; (*s).r1 *= a.y; (*s).r2 *= a.z; (*s).r3 *= a.w; (*s).r4 *= b.x; (*s).r5 *= b.y; (*s).r6 *= b.z; (*s).r7 *= b.w;
}

// Stages channels d0 to d0 + TILE_K: of the queries, four channels of four tokens for each lane, which begin at `q`; of the
// keys, four channels of two. Channels past the last are zero in Q; keys past the last are the last, and masked later.
fn stage_keys(lane: u32, q: vec4<u32>, keys: Keys, key: u32, d0: u32) {
    let d = d0 + lane % 4u * 4u;
    let i = min(d, p.head_dim - 4u) / 4u;
    let inside = d < p.head_dim;
    let first = keys.k + min(key, keys.count - 1u) * keys.stride + i;
    let second = keys.k + min(key + 1u, keys.count - 1u) * keys.stride + i;
    let q0 = x[q.x + i];
    let q1 = x[q.y + i];
    let q2 = x[q.z + i];
    let q3 = x[q.w + i];
    var k: vec4<f32>;
    var l: vec4<f32>;
    if keys.is_context {
        k = context[first];
        l = context[second];
    } else {
        k = x[first];
        l = x[second];
    }
    workgroupBarrier(); // what was staged before has been used
    let at = lane % 4u * 4u * STRIDE + lane / 4u;
    tile[at] = select(vec4(0.0), vec4(q0.x, q1.x, q2.x, q3.x), inside);
    tile[at + STRIDE] = select(vec4(0.0), vec4(q0.y, q1.y, q2.y, q3.y), inside);
    tile[at + 2u * STRIDE] = select(vec4(0.0), vec4(q0.z, q1.z, q2.z, q3.z), inside);
    tile[at + 3u * STRIDE] = select(vec4(0.0), vec4(q0.w, q1.w, q2.w, q3.w), inside);
    tile_keys[at] = vec2(k.x, l.x);
    tile_keys[at + STRIDE] = vec2(k.y, l.y);
    tile_keys[at + 2u * STRIDE] = vec2(k.z, l.z);
    tile_keys[at + 3u * STRIDE] = vec2(k.w, l.w);
    workgroupBarrier();
}

// Stages the values of TILE_K keys, four channels of every fourth key for each lane. Keys past the last are the last, with
// weight 0; channels past the last are the last, and not stored.
fn stage_values(lane: u32, keys: Keys, key0: u32, column: u32) {
    let key = min(key0 + lane / 16u + vec4(0u, 4u, 8u, 12u), vec4(keys.count - 1u));
    let i = keys.v + key * keys.stride + min(column, p.head_dim - 4u) / 4u;
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
    let at = lane / 16u * STRIDE + lane % 16u;
    tile[at] = a;
    tile[at + 4u * STRIDE] = b;
    tile[at + 8u * STRIDE] = c;
    tile[at + 12u * STRIDE] = d;
    workgroupBarrier();
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
    let image = group.z;
    let channel = group.y * p.head_dim; // the head's first
    let own = select(0u, tokens, p.self_part != 0u);
    let scale = inverseSqrt(f32(p.head_dim));
    // Where the queries that this lane stages begin.
    let q = (image * tokens + min(token0 + lane / 4u * 4u + vec4(0u, 1u, 2u, 3u), vec4(tokens - 1u))) * (p.x.c / 4u) + channel / 4u;
    // In the softmax, a lane handles four tokens and a quarter of a tile's keys.
    let four = lane % 16u;
    let quarter = lane / 16u * (KEYS / 4u);
    // How many of its own keys each of those four tokens attends to.
    var seen = vec4(own);
    if key_len_kind != ABSENT { seen = min(seen, vec4(key_len[image])); }
    if p.causal != 0u { seen = min(seen, token0 + 4u * four + vec4(1u, 2u, 3u, 4u)); }

    for (var column0 = 0u; column0 < p.head_dim; column0 += VALUES) {
        var acc = Accumulator();
        var maximum = vec4(LOWEST); // running maximum of the scores of this lane's tokens
        var sum = vec4(0.0);        // running sum of this lane's weights

        // First the image's own keys, then those of the context.
        for (var source = 0u; source < 2u; source++) {
            var keys = Keys(
                false, (image * own * p.x.c + p.out.c + channel) / 4u, (image * own * p.x.c + 2u * p.out.c + channel) / 4u,
                p.x.c / 4u, own);
            // In a causal attention, no token of this workgroup attends to its own keys after its last token.
            var count = select(own, min(own, token0 + TILE_Q), p.causal != 0u);
            var visible = seen;
            if source == 1u {
                let first = image * p.context.w * p.context.c + channel;
                keys = Keys(true, first / 4u, (first + p.out.c) / 4u, p.context.c / 4u, p.context.w);
                count = p.context.w;
                visible = vec4(count);
            }
            for (var key0 = 0u; key0 < count; key0 += KEYS) {
                var s = Scores();
                for (var d0 = 0u; d0 < p.head_dim; d0 += TILE_K) {
                    stage_keys(lane, q, keys, key0 + lane / 4u * 2u, d0);
                    for (var i = 0u; i < TILE_K; i += 4u) {
                        multiply_keys(&s, at, i);
                        multiply_keys(&s, at, i + 1u);
                        multiply_keys(&s, at, i + 2u);
                        multiply_keys(&s, at, i + 3u);
                    }
                }
                let first = 4u * at.x * STRIDE + at.y;
                scores[first] = s.a0; scores[first + 8u] = s.b0;
                scores[first + STRIDE] = s.a1; scores[first + STRIDE + 8u] = s.b1;
                scores[first + 2u * STRIDE] = s.a2; scores[first + 2u * STRIDE + 8u] = s.b2;
                scores[first + 3u * STRIDE] = s.a3; scores[first + 3u * STRIDE + 8u] = s.b3;
                workgroupBarrier();

                // The softmax: from scores to weights relative to the maximum so far.
                var tile_maximum = vec4(LOWEST);
                for (var i = quarter; i < quarter + KEYS / 4u; i++) {
                    let score = select(vec4(LOWEST), scores[i * STRIDE + four] * scale, vec4(key0 + i) < visible);
                    scores[i * STRIDE + four] = score;
                    tile_maximum = max(tile_maximum, score);
                }
                tile[lane] = tile_maximum;
                workgroupBarrier();
                let before = maximum;
                maximum = max(max(maximum, tile[four]), max(tile[four + 16u], max(tile[four + 32u], tile[four + 48u])));
                let shrink = exp(before - maximum);
                sum *= shrink;
                for (var i = quarter; i < quarter + KEYS / 4u; i++) {
                    // Every token attends to the first key, so `maximum` is a real score and masked keys get weight 0.
                    let weight = exp(scores[i * STRIDE + four] - maximum);
                    scores[i * STRIDE + four] = weight;
                    sum += weight;
                }
                if quarter == 0u { factor[four] = shrink; }
                workgroupBarrier();

                rescale(&acc, factor[at.y], factor[8u + at.y]);
                for (var half = 0u; half < KEYS; half += TILE_K) {
                    stage_values(lane, keys, key0 + half, column0 + lane % 16u * 4u);
                    for (var i = 0u; i < TILE_K; i += 4u) {
                        multiply_values(&acc, at, half, i);
                        multiply_values(&acc, at, half, i + 1u);
                        multiply_values(&acc, at, half, i + 2u);
                        multiply_values(&acc, at, half, i + 3u);
                    }
                }
            }
        }

        workgroupBarrier();
        tile[lane] = sum;
        workgroupBarrier();
        if quarter == 0u { factor[four] = 1.0 / (tile[four] + tile[four + 16u] + tile[four + 32u] + tile[four + 48u]); }
        workgroupBarrier();
        for (var i = 0u; i < 8u; i++) {
            var l = acc.l0;
            var r = acc.r0;
            switch i {
                case 1u: { l = acc.l1; r = acc.r1; }
                case 2u: { l = acc.l2; r = acc.r2; }
                case 3u: { l = acc.l3; r = acc.r3; }
                case 4u: { l = acc.l4; r = acc.r4; }
                case 5u: { l = acc.l5; r = acc.r5; }
                case 6u: { l = acc.l6; r = acc.r6; }
                case 7u: { l = acc.l7; r = acc.r7; }
                default: {}
            }
            let token = token0 + i / 4u * 32u + 4u * at.y + i % 4u;
            let inverse = factor[i / 4u * 8u + at.y][i % 4u];
            for (var half = 0u; half < 2u; half++) {
                let column = column0 + half * 32u + 4u * at.x;
                if token < tokens && column < p.head_dim {
                    out[((image * tokens + token) * p.out.c + channel + column) / 4u] = select(l, r, half == 1u) * inverse;
                }
            }
        }
        workgroupBarrier();
    }
}
