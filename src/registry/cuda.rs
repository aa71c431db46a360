//! Rows of CUDA kernels. The file of a row is `kernels/<name>.cu`; its PTX, `<name>.ptx`, and `<name>.sm90.ptx` unless it is for
//! Hopper anyway, lies where the build script has put it.

use super::grid::{channels, elements, pass, product, rows, squares, tiles};
use super::tiling::LINEAR;
use super::{Axis, Caps, Count, Cuda, Fit, Grid, Kernel, Lang, Launch, Of, Squares, Tile};

/// `cuda!("op", "op.variant", needs, [passes…])`, then `.with_scratch(…)` where passes share memory.
macro_rules! cuda {
    ($op:literal, $name:literal, HOPPER, $passes:tt) => {
        cuda!($op, $name, HOPPER, ".ptx", $passes)
    };
    ($op:literal, $name:literal, Caps::SM90A, $passes:tt) => {
        cuda!($op, $name, Caps::SM90A, ".ptx", $passes)
    };
    ($op:literal, $name:literal, $needs:expr, $passes:tt) => {
        cuda!($op, $name, $needs, ".sm90.ptx", $passes)
    };
    ($op:literal, $name:literal, $needs:expr, $sm90:literal, [$($pass:expr),+ $(,)?]) => {
        row($op, $name, $needs, Cuda {
            source: include_str!(concat!("../../kernels/", $name, ".cu")),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/ptx/", $name, ".ptx")),
            ptx_sm90: include_str!(concat!(env!("OUT_DIR"), "/ptx/", $name, $sm90)),
            passes: const { &[$($pass),+] },
            scratch: &[],
            counters: &[],
            tiles: &[],
            squares: Squares::Unused,
        })
    };
}

const fn row(op: &'static str, name: &'static str, needs: Caps, cuda: Cuda) -> Kernel {
    Kernel { op, name, lang: Lang::Cuda, needs, fit: &[], launch: Launch::Cuda(cuda) }
}

/// An op with one kernel, called like the op.
macro_rules! only {
    ($op:literal, $grid:expr) => {
        cuda!($op, $op, Caps::NONE, [pass($op, $grid)])
    };
}

/// What the kernels for Hopper need, which multiply what is stored in bf16.
const HOPPER: Caps = Caps::SM90A.and(Caps::ROUND_BF16);

/// A linear layer whose tiles are those of a tiling: `hopper!("kernel", entries, tiling)`.
macro_rules! hopper {
    ($name:literal, [$($pass:expr),+], $tiling:literal) => {
        cuda!("linear", $name, HOPPER, [$($pass),+])
            .with_tiles(const {
                &[
                    Tile::Rows { operand: 0, per_image: false, rows: "TILE_M", among: "CLUSTER_Y" },
                    Tile::Rows { operand: 1, per_image: false, rows: "TILE_N", among: "CLUSTER_X" },
                ]
            })
            .fit(const {
                &[
                    Fit::GemmInput(0),
                    Fit::ChannelsMultipleOf(8),
                    Fit::GemmInput(1),
                    Fit::Tiling(&LINEAR[$tiling]),
                ]
            })
    };
}

/// The same, whose terms are split up as well: `split!("kernel", "entry", tiling)`.
macro_rules! split {
    ($name:literal, $entry:literal, $tiling:literal) => {
        hopper!($name, [pass($entry, SPLIT_PRODUCT)], $tiling)
            .with_scratch(&[
                STRIPS[0],
                STRIPS[1],
                SPLITS,
                Axis::each(Count::Number("WARP_ROWS")),
                Axis::each(Count::Number("TILE_N")),
            ])
            .with_counters(&[STRIPS[0], STRIPS[1], SPLITS])
    };
}

/// An attention whose blocks have so many queries: `flash!("kernel", pass, queries)`.
macro_rules! flash {
    ($name:literal, $pass:expr, $queries:literal) => {
        cuda!("attention", $name, HOPPER, [$pass])
            .with_tiles(&[
                Tile::Rows { operand: 0, per_image: true, rows: "COPY", among: "" },
                Tile::Rows { operand: 1, per_image: true, rows: "COPY", among: "" },
            ])
            .fit(&[Fit::GemmInput(0), Fit::FactorOrAbsent(1), Fit::HeadDim(64), Fit::Queries($queries)])
    };
}

/// A feed-forward block of so many channels, and four times as many hidden values: `mixing!("kernel", pass, channels)`.
macro_rules! mixing {
    ($name:literal, $pass:expr, $channels:literal) => {
        cuda!("feed_forward", $name, HOPPER, [$pass])
            .with_tiles(&[
                Tile::Rows { operand: 2, per_image: false, rows: "TILE_H", among: "CLUSTER_X" },
                Tile::Rows { operand: 4, per_image: false, rows: "TILE_N", among: "CLUSTER_X" },
            ])
            .fit(&[Fit::Matrix(2, 4 * $channels, $channels), Fit::GemmInput(2), Fit::GemmInput(4)])
    };
}

/// A transposed convolution by windows of two by two side by side: `upsample!("kernel", entry, [fits…])`.
macro_rules! upsample {
    ($name:literal, $entry:literal, [$($fit:expr),*]) => {
        cuda!("conv_transpose2d", $name, HOPPER, [pass($entry, PIXEL_TILES)])
            .with_tiles(&[
                Tile::Pixels { operand: 0, among: "CLUSTER_X" },
                Tile::Columns { operand: 1, laid_out: None, among: "CLUSTER_Y" },
            ])
            .fit(&[
                $($fit,)*
                Fit::Window(1, 2),
                Fit::Constant(0, 2),
                Fit::Constant(1, 0),
                Fit::ChannelsMultipleOf(8),
                Fit::GemmInput(0),
                Fit::GemmInput(1),
            ])
    };
}

const ONE: Grid = [Axis::ONE; 3];
const THREADS: Grid = elements("THREADS");

/// One block for each group of each image.
const GROUPS: Grid = [Axis::each(Count::Constant(0)), Axis::each(Count::Images(Of::Out)), Axis::ONE];

/// One block for every few pixels and channels of each image.
const PARTS: Grid = [
    Axis::every(Count::Tokens(Of::Out), "PIXELS"),
    Axis::every(Count::Channels(Of::Out), "CHANNELS"),
    Axis::each(Count::Images(Of::Out)),
];

/// One block for every few queries of each head of each image.
const QUERIES: Grid = [
    Axis::every(Count::Tokens(Of::Out), "QUERIES"),
    Axis::each(Count::Constant(0)),
    Axis::each(Count::Images(Of::Out)),
];

/// Tiles of a transposed convolution, for each remainder of the rows modulo the stride.
const CLASSES: Grid = [
    Axis::every(Count::Rows(Of::Out), "TILE_M"),
    Axis::every(Count::Channels(Of::Out), "TILE_N"),
    Axis::each(Count::Constant(0)),
];

/// Tiles of pixels of the first operand.
const PIXELS: Axis = Axis::each(Count::Product(&[
    Axis::every(Count::Columns(Of::Operand(0)), "TILE_W"),
    Axis::every(Count::Lines(Of::Operand(0)), "TILE_H"),
    Axis::each(Count::Images(Of::Out)),
]));

/// Tiles of pixels, for every few channels of the result.
const PIXEL_TILES: Grid = [Axis::every(Count::Channels(Of::Out), "CHANNELS"), PIXELS, Axis::ONE];

/// The same for each of the classes of a transposed convolution of stride 2.
const PIXEL_TILES_OF_CLASSES: Grid = [
    Axis::each(Count::Product(&[Axis::each(Count::Exactly(4)), Axis::every(Count::Channels(Of::Out), "CHANNELS")])),
    PIXELS,
    Axis::ONE,
];

/// A cluster of blocks for every tile of TILE_H lines and COLUMNS times as many columns as it has blocks.
const TILES: Grid = [
    Axis::every(Count::Columns(Of::Out), "COLUMNS"),
    Axis::every(Count::Lines(Of::Out), "TILE_H"),
    Axis::each(Count::Images(Of::Out)),
];

/// A thread for every four channels, in whole warps.
const QUADS: Axis = Axis::every(Count::Channels(Of::Out), "WARP_CHANNELS");

/// What kernels that move four channels at once ask for: no more than they have registers or threads for.
const QUADS_FIT: &[Fit] = &[Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048)];

/// Tiles of a product, for each part of its terms.
const SPLIT_PRODUCT: Grid =
    [Axis::every(Count::Rows(Of::Out), "TILE_M"), Axis::every(Count::Channels(Of::Out), "TILE_N"), SPLITS];

/// Parts of the terms.
const SPLITS: Axis = Axis::each(Count::Number("SPLITS"));

/// The rows of a warp, of a tile's channels.
const STRIPS: [Axis; 2] =
    [Axis::every(Count::Rows(Of::Out), "WARP_ROWS"), Axis::every(Count::Channels(Of::Out), "TILE_N")];

/// Values between the layers of a feed-forward block, of which its operand 3 is the bias.
const HIDDEN: Count = Count::Channels(Of::Operand(3));

#[rustfmt::skip]
pub(super) static ROWS: &[Kernel] = &[
    only!("activation", THREADS),
    cuda!("add", "add.float4", Caps::NONE, [pass("add_float4", elements("ELEMENTS"))]).fit(&[Fit::ChannelsMultipleOf(4)]),
    only!("add", THREADS),
    only!("advance", ONE),
    flash!("attention.192.sm90a", pass("attention_192_sm90a", QUERIES), 192),
    flash!("attention.320.sm90a", pass("attention_320_sm90a", QUERIES), 320),
    cuda!("attention", "attention.mma", Caps::ROUND_BF16, [pass("attention_mma", QUERIES)]).fit(&[Fit::HeadDimAtMost(64)]),
    only!("attention", QUERIES),
    only!("batch_norm", THREADS),
    cuda!("concat", "concat.float4", Caps::NONE, [pass("concat_float4", elements("ELEMENTS"))]).fit(&[Fit::ChannelsMultipleOf(4)]),
    only!("concat", THREADS),
    cuda!("conv2d", "conv2d.mma", Caps::ROUND_BF16, [pass("conv2d_mma", product("TILE_M", "TILE_N"))]),
    only!("conv2d", product("TILE_M", "TILE_N")),
    upsample!("conv_transpose2d.128x96.sm90a", "conv_transpose2d_128x96_sm90a", [Fit::RowsAtMost(256)]),
    upsample!("conv_transpose2d.128x160.sm90a", "conv_transpose2d_128x160_sm90a", []),
    cuda!("conv_transpose2d", "conv_transpose2d.4x4.sm90a", HOPPER, [
        pass("conv_transpose2d_4x4_sm90a_weight", [
            Axis::every(Count::Elements(Of::Operand(1)), "LAID_OUT"),
            Axis::ONE,
            Axis::ONE,
        ]),
        pass("conv_transpose2d_4x4_sm90a", PIXEL_TILES_OF_CLASSES),
    ]).with_scratch(&[Axis::every(Count::Elements(Of::Operand(1)), "PAIR")])
    .with_tiles(&[
        Tile::Pixels { operand: 0, among: "CLUSTER_X" },
        Tile::Columns { operand: 1, laid_out: Some(4), among: "CLUSTER_Y" },
    ])
    .fit(&[
        Fit::Window(1, 4),
        Fit::Constant(0, 2),
        Fit::Constant(1, 1),
        Fit::ChannelsMultipleOf(32),
        Fit::GemmInput(0),
        Fit::GemmInput(1),
    ]),
    cuda!("conv_transpose2d", "conv_transpose2d.mma", Caps::ROUND_BF16, [pass("conv_transpose2d_mma", CLASSES)]),
    only!("conv_transpose2d", CLASSES),
    cuda!("count_non_finite", "count_non_finite", Caps::NONE, [
        pass("count_non_finite_clear", ONE),
        pass("count_non_finite", [Axis::every(Count::Elements(Of::Operand(0)), "ELEMENTS"), Axis::ONE, Axis::ONE]),
    ]),
    only!("denoise", THREADS),
    only!("depthwise_conv", THREADS),
    cuda!("depthwise_norm", "depthwise_norm.160.sm90a", Caps::SM90A, [pass("depthwise_norm_160_sm90a", TILES).in_clusters()])
        .fit(&[Fit::Window(1, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(640)]),
    cuda!("depthwise_norm", "depthwise_norm.512.sm90a", Caps::SM90A, [pass("depthwise_norm_512_sm90a", TILES).in_clusters()])
        .fit(&[Fit::Window(1, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048)]),
    cuda!("depthwise_norm", "depthwise_norm.3x3", Caps::NONE, [
        pass("depthwise_norm_3x3", squares("TILE")).with_warps(QUADS),
    ]).fit(&[Fit::Window(1, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048)]),
    only!("depthwise_norm", rows("PIXELS")).with_scratch(&[Axis::each(Count::Elements(Of::Out))]),
    cuda!("depthwise_residual", "depthwise_residual.3x3", Caps::NONE, [
        pass("depthwise_residual_3x3", squares("TILE")).with_warps(QUADS),
    ]).fit(&[Fit::Window(2, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048)]),
    only!("depthwise_residual", THREADS),
    only!("embed", THREADS),
    mixing!("feed_forward.384.sm90a", pass("feed_forward_384_sm90a", rows("TILE_M")), 384),
    mixing!("feed_forward.192.sm90a", pass("feed_forward_192_sm90a", rows("TILE_M")), 192),
    cuda!("feed_forward", "feed_forward.mma", Caps::ROUND_BF16, [
        pass("feed_forward_mma_norm", rows("NORM_ROWS")),
        pass("feed_forward_mma_up", [Axis::every(HIDDEN, "TILE_N"), Axis::every(Count::Rows(Of::Out), "TILE_M"), Axis::ONE]),
        pass("feed_forward_mma", tiles("TILE_N", "TILE_M")),
    ]).with_scratch(&[
        Axis::each(Count::Rows(Of::Out)),
        Axis::each(Count::Sum(&[Axis::every(HIDDEN, "CHUNK"), Axis::every(Count::Channels(Of::Out), "CHUNK")])),
        Axis::each(Count::Number("WORDS")),
    ]),
    cuda!("feed_forward", "feed_forward", Caps::NONE, [
        pass("feed_forward_up", [Axis::every(Count::Rows(Of::Out), "TILE_M"), Axis::every(HIDDEN, "TILE_N"), Axis::ONE]),
        pass("feed_forward", product("TILE_M", "TILE_N")),
    ]).with_scratch(&[Axis::each(Count::Rows(Of::Out)), Axis::each(HIDDEN)]),
    only!("gate", THREADS),
    only!("gather", THREADS),
    cuda!("grn_scale", "grn_scale.split", Caps::NONE, [
        pass("grn_scale_split_sums", [
            Axis::every(Count::Channels(Of::Out), "CHANNELS"),
            Axis::each(Count::Number("PARTS")),
            Axis::each(Count::Images(Of::Out)),
        ]),
        pass("grn_scale_split", [Axis::each(Count::Images(Of::Out)), Axis::ONE, Axis::ONE]),
    ]).fit(&[Fit::ChannelsMultipleOf(4)])
    .with_scratch(&[Axis::each(Count::Elements(Of::Out)), Axis::each(Count::Number("PARTS"))])
    .with_squares(Squares::Taken),
    cuda!("grn_scale", "grn_scale", Caps::NONE, [
        pass("grn_scale_norms", channels("CHANNELS")),
        pass("grn_scale", [Axis::each(Count::Images(Of::Out)), Axis::ONE, Axis::ONE]),
    ]).with_scratch(&[Axis::each(Count::Elements(Of::Out))]),
    cuda!("group_norm", "group_norm.split", Caps::NONE, [
        pass("group_norm_split_moments", PARTS),
        pass("group_norm_split_groups", GROUPS),
        pass("group_norm_split", PARTS),
    ]).fit(&[Fit::ChannelsMultipleOf(4)]).with_scratch(&[
        Axis::each(Count::Sum(&[Axis::every(Count::Tokens(Of::Out), "PIXELS"), Axis::ONE])),
        Axis::each(Count::Images(Of::Out)),
        Axis::each(Count::Channels(Of::Out)),
        Axis::each(Count::Number("MOMENTS")),
    ]),
    only!("group_norm", GROUPS),
    cuda!("layer_norm", "layer_norm.registers", Caps::NONE, [pass("layer_norm_registers", rows("ROWS"))]).fit(QUADS_FIT),
    only!("layer_norm", rows("ROWS")),
    hopper!("linear.192x192.sm90a", [pass("linear_192x192_sm90a", product("TILE_M", "TILE_N"))], 0).with_squares(Squares::Left),
    hopper!("linear.192x144.sm90a", [pass("linear_192x144_sm90a", product("TILE_M", "TILE_N"))], 1).with_squares(Squares::Left),
    hopper!("linear.192x96.sm90a", [pass("linear_192x96_sm90a", product("TILE_M", "TILE_N"))], 2).with_squares(Squares::Left),
    hopper!("linear.128x256.sm90a", [pass("linear_128x256_sm90a", product("TILE_M", "TILE_N"))], 3).with_squares(Squares::Left),
    hopper!("linear.128x240.sm90a", [pass("linear_128x240_sm90a", product("TILE_M", "TILE_N"))], 4).with_squares(Squares::Left),
    hopper!("linear.128x160.sm90a", [pass("linear_128x160_sm90a", product("TILE_M", "TILE_N"))], 5).with_squares(Squares::Left),
    hopper!("linear.128x80.sm90a", [pass("linear_128x80_sm90a", product("TILE_M", "TILE_N"))], 6).with_squares(Squares::Left),
    split!("linear.192x192.split2.sm90a", "linear_192x192_split2_sm90a", 7),
    split!("linear.192x96.split3.sm90a", "linear_192x96_split3_sm90a", 8),
    split!("linear.192x64.split4.sm90a", "linear_192x64_split4_sm90a", 9),
    split!("linear.128x160.split2.sm90a", "linear_128x160_split2_sm90a", 10),
    split!("linear.128x80.split4.sm90a", "linear_128x80_split4_sm90a", 11),
    cuda!("linear", "linear.mma_rows", Caps::ROUND_BF16, [pass("linear_mma_rows", product("TILE_M", "TILE_N"))])
        .fit(&[Fit::RowsAtMost(256)]),
    cuda!("linear", "linear.mma", Caps::ROUND_BF16, [pass("linear_mma", product("TILE_M", "TILE_N"))]).with_squares(Squares::Left),
    only!("linear", product("TILE_M", "TILE_N")),
    only!("mean", channels("CHANNELS")),
    only!("modulate", THREADS),
    only!("nearest_code", rows("ROWS")),
    only!("philox", THREADS),
    only!("pixel_shuffle", THREADS),
    cuda!("pixel_unshuffle", "pixel_unshuffle.float4", Caps::NONE, [pass("pixel_unshuffle_float4", elements("ELEMENTS"))])
        .fit(&[Fit::Constant(0, 2), Fit::ChannelsMultipleOf(4)]),
    only!("pixel_unshuffle", THREADS),
    only!("resample", THREADS),
    only!("scale", THREADS),
    only!("to_rgb8", THREADS),
];
