// Shared by both convolutions for channels that are multiples of four: operands, loads without branches, and the product.

@id(1) override weight_kind: u32;
@id(2) override bias_kind: u32;

struct Params { out: Shape, x: Shape, weight: Shape, bias: Shape, stride: u32, padding: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

// A line that is in no input, wherever a tap moves it.
const NOWHERE: u32 = 0x80000000u;

// Four output pixels: the number of the first input pixel of their images, and the input pixel under the first tap. Lines
// and columns above or left of the input wrap around to large values.
struct Pixels { image: vec4<u32>, line: vec4<u32>, column: vec4<u32> }

// The taps that are used: so many, in rows and columns; from one to the next, lines and columns of the input change by
// `step`; and where in a kernel the first one lies, the one below it, and the one to its right.
struct Taps { count: vec2<u32>, step: u32, first: u32, down: u32, right: u32 }

// Elements of the weights from one output channel to the next, and from one input channel to the next.
struct Strides { output: u32, channel: u32 }

// Four input channels of four pixels and of four output channels at one tap, on their way to the tiles.
struct Block {
    x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>,
    inside: vec4<bool>,
    w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>, // one input channel each
    i: vec4<u32>, // which elements of the weights those of w0 are
}

fn words(i: vec4<u32>) -> vec4<u32> {
    return vec4(
        weight[word(i.x, weight_kind)], weight[word(i.y, weight_kind)],
        weight[word(i.z, weight_kind)], weight[word(i.w, weight_kind)]);
}

fn widen(bits: vec4<u32>, i: vec4<u32>) -> vec4<f32> {
    return vec4(
        element(bits.x, i.x, weight_kind), element(bits.y, i.y, weight_kind),
        element(bits.z, i.z, weight_kind), element(bits.w, i.w, weight_kind));
}

// Loads the four input channels that begin at k. An index past the end (of channels, pixels or kernel positions) is replaced
// by the last valid one, so that no branch is needed; what was loaded for it is not used.
fn fetch(pixels: Pixels, taps: Taps, strides: Strides, o: vec4<u32>, tap: vec2<u32>, k: u32) -> Block {
    var block: Block;
    let line = pixels.line + tap.x * taps.step;
    let column = pixels.column + tap.y * taps.step;
    let channel = min(k, p.x.c - 4u);
    block.inside = (line < vec4(p.x.h)) & (column < vec4(p.x.w)) & (vec4(k) < vec4(p.x.c));
    let i = select(vec4(0u), pixels.image + line * p.x.w + column, block.inside) * (p.x.c / 4u) + channel / 4u;
    block.x0 = x[i.x];
    block.x1 = x[i.y];
    block.x2 = x[i.z];
    block.x3 = x[i.w];
    let at = min(tap, taps.count - 1u);
    block.i = o * strides.output + channel * strides.channel + taps.first + at.x * taps.down + at.y * taps.right;
    block.w0 = words(block.i);
    block.w1 = words(block.i + strides.channel);
    block.w2 = words(block.i + 2u * strides.channel);
    block.w3 = words(block.i + 3u * strides.channel);
    return block;
}

// Puts a block into the tiles, where a vec4 holds four pixels, or output channels, of one input channel.
fn fill_tiles(at: u32, block: Block, channel: u32) {
    fill_x(
        at,
        select(vec4(0.0), block.x0, block.inside.x), select(vec4(0.0), block.x1, block.inside.y),
        select(vec4(0.0), block.x2, block.inside.z), select(vec4(0.0), block.x3, block.inside.w));
    put_w(at, widen(block.w0, block.i));
    put_w(at + QUADS, widen(block.w1, block.i + channel));
    put_w(at + 2u * QUADS, widen(block.w2, block.i + 2u * channel));
    put_w(at + 3u * QUADS, widen(block.w3, block.i + 3u * channel));
}

// The four pixels whose blocks a lane loads, and its four output channels, counted from those of the tile.
fn four_of(lane: u32) -> vec4<u32> { return lane / 4u * 4u + vec4(0u, 1u, 2u, 3u); }

// Adds the product of the pixels' im2col rows and the weights to the accumulators. K runs over taps and, as the inner loop,
// over input channels, because they are contiguous in x and the pixels are the same for all of them. All loads of a tile are
// issued together, before the product of the tile before.
fn convolve(
    acc: ptr<function, Accumulator>, at: vec3<u32>, lane: u32, pixels: Pixels, taps: Taps, strides: Strides, o0: u32,
) {
    if taps.count.x == 0u || taps.count.y == 0u { return; }
    let o = min(o0 + four_of(lane), vec4(p.out.c - 1u));
    let k = lane % 4u * 4u;
    var tap = vec2(0u);
    var k0 = 0u;
    var next = fetch(pixels, taps, strides, o, tap, k);
    while tap.x < taps.count.x {
        fill_tiles(place(k, lane / 4u), next, strides.channel);
        workgroupBarrier();
        k0 += TILE_K;
        if k0 >= p.x.c {
            k0 = 0u;
            tap.y += 1u;
            if tap.y == taps.count.y { tap = vec2(tap.x + 1u, 0u); }
        }
        next = fetch(pixels, taps, strides, o, tap, k0 + k);
        multiply_tiles(acc, at);
        workgroupBarrier();
    }
}

// Results of channels o to o + 3 from their sums.
fn add_bias(sum: vec4<f32>, o: u32) -> vec4<f32> {
    if bias_kind == ABSENT { return sum; }
    return sum + vec4(
        element(bias[word(o, bias_kind)], o, bias_kind),
        element(bias[word(o + 1u, bias_kind)], o + 1u, bias_kind),
        element(bias[word(o + 2u, bias_kind)], o + 2u, bias_kind),
        element(bias[word(o + 3u, bias_kind)], o + 3u, bias_kind));
}
