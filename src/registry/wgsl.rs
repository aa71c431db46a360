//! Shaders: how one is launched, and their rows. The file of a row is `shaders/<name>.wgsl`.

use super::grid::{elements, main, pass, rows, tiles};
use super::{Axis, Caps, Count, Fit, Grid, Kernel, Lang, Launch, Of, Pass};
use crate::ops::{Attention, FeedForward, GroupNorm};

/// A shader file and how it is dispatched.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// Text of the file. It may name any tunable `override` or `const`; see [`Axis::per`].
    pub source: &'static str,
    /// Texts that it shares with other shaders, appended to its own.
    pub shared: &'static [Shared],
    /// Entry points, run one after the other.
    pub passes: &'static [Pass],
    /// Elements of memory that the passes share, as the product of these; empty if they need none.
    pub scratch: &'static [Axis],
    /// How many rows all passes do, by the name that the shader gives that number, before they do the next ones; empty if
    /// each pass does all of them. Passes count rows along y.
    pub band: &'static str,
    /// Values for the shader's tunables instead of its own.
    pub tunables: &'static [(&'static str, u32)],
}

/// A text that is appended to those of several shaders.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Its file is `shaders/<name>.wgsl`.
    pub name: &'static str,
    /// What the file says.
    pub text: &'static str,
}

/// `shared!("linear.shared")`.
macro_rules! shared {
    ($name:literal) => {
        Shared { name: $name, text: include_str!(concat!("../../shaders/", $name, ".wgsl")) }
    };
}

/// What every shader can use.
static COMMON: Shared = shared!("common");

impl Shader {
    /// What is appended to its own text, in this order.
    pub fn appended(&self) -> impl Iterator<Item = &'static Shared> {
        self.shared.iter().chain([&COMMON])
    }

    /// The whole text that a device compiles.
    pub fn text(&self) -> String {
        let texts: Vec<_> = [self.source].into_iter().chain(self.appended().map(|shared| shared.text)).collect();
        texts.join("\n")
    }
}

/// `shader!("op", "op.variant", needs, [passes…])`, then `.with_scratch(…)` where passes share memory.
macro_rules! shader {
    ($op:literal, $name:literal, $needs:expr, [$($pass:expr),+ $(,)?]) => {
        row($op, $name, $needs, Shader {
            source: include_str!(concat!("../../shaders/", $name, ".wgsl")),
            shared: &[],
            passes: const { &[$($pass),+] },
            scratch: &[],
            band: "",
            tunables: &[],
        })
    };
}

const fn row(op: &'static str, name: &'static str, needs: Caps, shader: Shader) -> Kernel {
    Kernel { op, name, lang: Lang::Wgsl, needs, fit: &[], launch: Launch::Wgsl(shader) }
}

impl Kernel {
    /// Passes that do so many rows before they do the next ones; see [`Shader::band`].
    const fn in_bands(self, band: &'static str) -> Kernel {
        match self.launch {
            Launch::Wgsl(shader) => Kernel { launch: Launch::Wgsl(Shader { band, ..shader }), ..self },
            _ => panic!("a shader"),
        }
    }

    /// The same file under another name, with these values for its tunables.
    const fn tuned(self, name: &'static str, tunables: &'static [(&'static str, u32)]) -> Kernel {
        match self.launch {
            Launch::Wgsl(shader) => Kernel { name, launch: Launch::Wgsl(Shader { tunables, ..shader }), ..self },
            _ => panic!("a shader"),
        }
    }

    /// Texts appended to a shader's own.
    const fn sharing(self, shared: &'static [Shared]) -> Kernel {
        match self.launch {
            Launch::Wgsl(shader) => Kernel { launch: Launch::Wgsl(Shader { shared, ..shader }), ..self },
            _ => panic!("a shader"),
        }
    }
}

/// What the variants of an op share, and what several ops do.
const LINEAR_PARAMS: Shared = shared!("linear.params.shared");
const LINEAR: Shared = shared!("linear.shared");
const LINEAR_VEC4: Shared = shared!("linear.vec4.shared");
const PRODUCT: Shared = shared!("gemm.shared");
const ATTENTION_COOP: Shared = shared!("attention.coop.shared");
const LINEAR_COOP: Shared = shared!("linear.coop.shared");
const CONV: Shared = shared!("conv.shared");
const CONV_VEC4: Shared = shared!("conv.vec4.shared");
const LAYER_NORM: Shared = shared!("layer_norm.shared");
const DEPTHWISE_NORM: Shared = shared!("depthwise_norm.shared");
const FEED_FORWARD: Shared = shared!("feed_forward.shared");
const SUM: Shared = shared!("sum.shared");

/// Results that make enough tiles of 128 x 128 to keep a large GPU busy: 128 of them.
const MANY: usize = 128 * 128 * 128;

const ONE: Grid = [Axis::ONE; 3];
/// Images of the first operand, blocks of its pixels, and its channels, one or a workgroup's lanes at a time.
const IMAGES: Axis = Axis::each(Count::Images(Of::FIRST));
const BLOCKS: Axis = Axis::every(Count::Tokens(Of::FIRST), "PIXELS");
const CHANNELS: Axis = Axis::each(Count::Channels(Of::FIRST));
const LANES: Axis = Axis::every(Count::Channels(Of::FIRST), "WG");
const GROUPS: Axis = Axis::each(Count::Constant(GroupNorm::GROUPS));

/// What kernels with cooperative matrices need beside these; they round GEMM inputs to f16.
const F16_TILES: Caps = Caps::F16.and(Caps::SUBGROUP).and(Caps::ROUND_F16);

/// One workgroup for every tile of queries, head and image.
const QUERIES: Grid = [Axis::every(Count::Tokens(Of::Out), "TILE_Q"), HEADS, Axis::each(Count::Images(Of::Out))];

const HEADS: Axis = Axis::each(Count::Constant(Attention::HEADS));

/// Hidden values of a feed-forward block: each has a bias.
const HIDDEN: Count = Count::Channels(Of::Operand(FeedForward::B0));
/// What is kept of the norm of a pixel, beside its hidden values.
const NORM: Axis = Axis::each(Count::Exactly(4));
const ROWS_OUT: Count = Count::Rows(Of::Out);

#[rustfmt::skip]
pub(super) static ROWS: &[Kernel] = &[
    shader!("activation", "activation", Caps::NONE, [main(elements("WG"))]),
    shader!("add", "add", Caps::NONE, [main(elements("WG"))]),
    shader!("advance", "advance", Caps::NONE, [main(ONE)]),
    shader!("attention", "attention.coop", Caps::COOPERATIVE.and(F16_TILES), [main(QUERIES)]).sharing(&[ATTENTION_COOP])
        .fit(&[Fit::HeadDim(64)]),
    shader!("attention", "attention.coop8", Caps::COOPERATIVE_8.and(F16_TILES), [main(QUERIES)]).sharing(&[ATTENTION_COOP])
        .fit(&[Fit::HeadDim(64)]),
    shader!("attention", "attention.vec4", Caps::NONE, [main(QUERIES)]).fit(&[Fit::HeadDimMultipleOf(4)]),
    shader!("attention", "attention", Caps::NONE, [main(QUERIES)]),
    shader!("batch_norm", "batch_norm", Caps::NONE, [main(elements("WG"))]),
    shader!("concat", "concat", Caps::NONE, [main(elements("WG"))]),
    shader!("conv2d", "conv2d.vec4", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]).sharing(&[CONV_VEC4, PRODUCT])
        .fit(&[Fit::ChannelsMultipleOf(4)]),
    shader!("conv2d", "conv2d", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]).sharing(&[CONV, PRODUCT]),
    shader!("conv_transpose2d", "conv_transpose2d.vec4", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))])
        .sharing(&[CONV_VEC4, PRODUCT]).fit(&[Fit::ChannelsMultipleOf(4)]),
    shader!("conv_transpose2d", "conv_transpose2d", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]).sharing(&[CONV, PRODUCT]),
    shader!("count_non_finite", "count_non_finite", Caps::NONE, [
        pass("clear", ONE),
        main([Axis::every(Count::Elements(Of::FIRST), "CHUNK"), Axis::ONE, Axis::ONE]),
    ]),
    shader!("denoise", "denoise", Caps::NONE, [main(elements("WG"))]),
    shader!("depthwise_conv", "depthwise_conv", Caps::NONE, [main(elements("WG"))]),
    shader!("depthwise_norm", "depthwise_norm.subgroup", Caps::SUBGROUP, [main(rows("ROWS"))]).sharing(&[DEPTHWISE_NORM]),
    shader!("depthwise_norm", "depthwise_norm", Caps::NONE, [main(rows(""))]).sharing(&[DEPTHWISE_NORM, SUM]),
    shader!("depthwise_residual", "depthwise_residual", Caps::NONE, [main(elements("WG"))]),
    shader!("embed", "embed", Caps::NONE, [main(elements("WG"))]),
    shader!("feed_forward", "feed_forward.vec4", Caps::NONE, [
        pass("norms", [Axis::ONE, Axis::every(ROWS_OUT, "NORM_ROWS"), Axis::ONE]),
        pass("hidden", [Axis::every(HIDDEN, "TILE_N"), Axis::every(ROWS_OUT, "TILE_M"), Axis::ONE]),
        main(tiles("TILE_N", "TILE_M")),
    ]).sharing(&[FEED_FORWARD, PRODUCT]).in_bands("BAND")
        .with_scratch(&[Axis::each(Count::Number("BAND")), Axis::each(Count::Sum(&[Axis::each(HIDDEN), NORM]))])
        .fit(&[Fit::ChannelsMultipleOf(4), Fit::OperandMultipleOf(FeedForward::W2, 4)]),
    shader!("feed_forward", "feed_forward", Caps::NONE, [pass("hidden", rows("")), main(elements("WG"))])
        .sharing(&[FEED_FORWARD]).with_scratch(&[Axis::each(Count::Rows(Of::Out)), Axis::each(HIDDEN)]),
    shader!("gate", "gate", Caps::NONE, [main(elements("WG"))]),
    shader!("gather", "gather", Caps::NONE, [main(elements("WG"))]),
    shader!("grn_scale", "grn_scale", Caps::NONE, [
        pass("squares", [LANES, BLOCKS, IMAGES]),
        pass("norms", [LANES, IMAGES, Axis::ONE]),
        main([LANES, IMAGES, Axis::ONE]),
    ]).sharing(&[SUM]).with_scratch(&[IMAGES, BLOCKS, CHANNELS]),
    shader!("group_norm", "group_norm", Caps::NONE, [
        pass("blocks", [BLOCKS, GROUPS, IMAGES]),
        pass("merge", [GROUPS, IMAGES, Axis::ONE]),
        main(elements("WG")),
    ]).sharing(&[SUM]).with_scratch(&[IMAGES, GROUPS, BLOCKS, Axis::each(Count::Exactly(2))]),
    shader!("guide", "guide", Caps::NONE, [main(elements("WG"))]),
    shader!("guide_projected", "guide_projected", Caps::NONE, [main([Axis::each(Count::Images(Of::Out)), Axis::ONE, Axis::ONE])])
        .sharing(&[SUM]),
    shader!("layer_norm", "layer_norm.subgroup", Caps::SUBGROUP, [main(rows("ROWS"))]).sharing(&[LAYER_NORM]),
    shader!("layer_norm", "layer_norm", Caps::NONE, [main(rows(""))]).sharing(&[LAYER_NORM, SUM]),
    shader!("linear", "linear.coop", Caps::COOPERATIVE.and(F16_TILES), [pass("ranges", rows("")), main(tiles("TILE_N", "TILE_M"))])
        .sharing(&[LINEAR_PARAMS, LINEAR_VEC4, LINEAR_COOP]).with_scratch(&[Axis::each(Count::Rows(Of::Out))])
        .fit(&[Fit::ChannelsMultipleOf(4)]),
    shader!("linear", "linear.coop8", Caps::COOPERATIVE_8.and(F16_TILES), [pass("ranges", rows("")), main(tiles("TILE_N", "TILE_M"))])
        .sharing(&[LINEAR_PARAMS, LINEAR_VEC4, LINEAR_COOP]).with_scratch(&[Axis::each(Count::Rows(Of::Out))])
        .fit(&[Fit::ChannelsMultipleOf(4)]),
    shader!("linear", "linear.subgroup", Caps::SUBGROUP.and(Caps::SOFTWARE), [main(tiles("TILE_N", "TILE_M"))])
        .sharing(&[LINEAR_PARAMS, LINEAR]),
    shader!("linear", "linear.rows", Caps::NONE, [main([Axis::every(Count::Channels(Of::Out), "TILE_N"), Axis::ONE, Axis::ONE])])
        .sharing(&[LINEAR_PARAMS, LINEAR]).fit(&[Fit::RowsAtMost(8)]),
    shader!("linear", "linear.vec4", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]).sharing(&[LINEAR_PARAMS, LINEAR_VEC4, PRODUCT])
        .fit(&[Fit::ChannelsMultipleOf(4), Fit::ResultsAtLeast(MANY)]).tuned("linear.vec4.large", &[("SIDE", 16)]),
    shader!("linear", "linear.vec4", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]).sharing(&[LINEAR_PARAMS, LINEAR_VEC4, PRODUCT])
        .fit(&[Fit::ChannelsMultipleOf(4)]),
    shader!("linear", "linear", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]).sharing(&[LINEAR_PARAMS, LINEAR, PRODUCT]),
    shader!("leaky_relu", "leaky_relu", Caps::NONE, [main(elements("WG"))]),
    shader!("mean", "mean", Caps::NONE, [pass("sums", [LANES, BLOCKS, IMAGES]), main(elements("WG"))])
        .with_scratch(&[IMAGES, BLOCKS, CHANNELS]),
    shader!("modulate", "modulate", Caps::NONE, [main(elements("WG"))]),
    shader!("nearest_code", "nearest_code", Caps::NONE, [main(rows("WG"))]),
    shader!("philox", "philox", Caps::NONE, [main(elements("WG"))]),
    shader!("pixel_shuffle", "pixel_shuffle", Caps::NONE, [main(elements("WG"))]),
    shader!("pixel_unshuffle", "pixel_unshuffle", Caps::NONE, [main(elements("WG"))]),
    shader!("resample", "resample", Caps::NONE, [main(elements("WG"))]),
    shader!("scale", "scale", Caps::NONE, [main(elements("WG"))]),
    shader!("to_rgb8", "to_rgb8", Caps::NONE, [main(elements("WG"))]),
];
