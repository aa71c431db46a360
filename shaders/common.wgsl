// What every shader uses. The loader appends this file to each shader, after the *.shared.wgsl that its row names; appended,
// because the line numbers of error messages are then those of the shader's own file. A shader's file alone is therefore
// not a complete module: `cascade-rt kernels --source NAME` prints one.
//
// In headers, *arena* marks an activation, a range of the one buffer that holds all of them; *learned* marks a weight, stored
// as f32, f16 or bf16; and *in place* means that the operand and the result are the same range.

// Shape of a tensor [n, h, w, c]: images, rows, columns, channels; channels are contiguous.
struct Shape { n: u32, h: u32, w: u32, c: u32 }

// A grid may be dispatched in parts: it is longer than the device allows, or would keep the device busy for too long. Entry
// points add the part's first workgroup to `workgroup_id`, and do not ask for `num_workgroups`.
struct Part { first: vec3<u32> }
var<immediate> part: Part;

// How an operand is stored: the value of `<operand>_kind`, set when the pipeline is created.
const ABSENT: u32 = 0u;
const F32: u32 = 1u;
const F16: u32 = 2u;
const BF16: u32 = 3u;
const IN_PLACE: u32 = 4u; // the operand shares its memory with `out`

// ops::Function
const IDENTITY: u32 = 0u;
const GELU_ERF: u32 = 1u;
const QUICK_GELU: u32 = 2u;
const SILU: u32 = 3u;

// Index of the 32-bit word that holds element i of a weight.
fn word(i: u32, kind: u32) -> u32 {
    return select(i >> 1u, i, kind == F32);
}

// Element i, extracted from its word and widened to f32, which is exact.
fn element(bits: u32, i: u32, kind: u32) -> f32 {
    if kind == F32 { return bitcast<f32>(bits); }
    let half = (bits >> ((i & 1u) * 16u)) & 0xffffu;
    if kind == BF16 { return bitcast<f32>(half << 16u); }
    return unpack2x16float(half).x;
}

// Both elements of a word of 16-bit elements, widened.
fn elements(bits: u32, kind: u32) -> vec2<f32> {
    if kind == BF16 { return vec2(bitcast<f32>(bits << 16u), bitcast<f32>(bits & 0xffff0000u)); }
    return unpack2x16float(bits);
}

// Four neighbouring elements that begin at a multiple of four: two words of 16-bit elements, or four words.
fn four_elements(bits: vec4<u32>, kind: u32) -> vec4<f32> {
    if kind == F32 { return bitcast<vec4<f32>>(bits); }
    return vec4(elements(bits.x, kind), elements(bits.y, kind));
}

// Error function, |error| < 3.1e-7: x·P(x²)/Q(x²), clamped where it rounds to 1 in f32.
// Source: Eigen, `generic_fast_erf`.
fn erf(v: f32) -> f32 {
    let x = clamp(v, -3.925724783138660, 3.925724783138660);
    let s = x * x;
    var p = 0.00022905065861350646;
    p = p * s + 0.0034082910107109506;
    p = p * s + 0.050955695062380861;
    p = p * s + 0.18520832239976145;
    p = p * s + 1.128379143519084;
    var q = -1.1791602954361697e-7;
    q = q * s + 0.000023547966471313185;
    q = q * s + 0.0010179625278914885;
    q = q * s + 0.014070470171167667;
    q = q * s + 0.11098505178285362;
    q = q * s + 0.49746925110067538;
    q = q * s + 1.0;
    return clamp(x * p / q, -1.0, 1.0);
}

// ops::Function of x. Where exp overflows to infinity, 1 / infinity would be 0; but WGSL guarantees no infinities, so the
// argument is clamped to where exp is finite.
fn apply(function: u32, x: f32) -> f32 {
    switch function {
        case GELU_ERF: { return 0.5 * x * (1.0 + erf(x * 0.70710678118654752)); }
        case QUICK_GELU: { return x / (1.0 + exp(min(-1.702 * x, 80.0))); }
        case SILU: { return x / (1.0 + exp(min(-x, 80.0))); }
        default: { return x; }
    }
}
