//! CUDA kernels: their rows, how one is launched, and which is the fastest on a Hopper GPU. The file of a row is
//! `kernels/<name>.cu`; what compilers make of it is `backend::cuda::code`'s.

mod fastest;
mod grids;
mod launch;
mod source;
mod tiling;

pub(super) use fastest::is_fastest;
pub use launch::{Cuda, Squares, Tile};
pub use tiling::{Cycles, Tiling};

use super::grid::{channels, elements, gemm, pass, rows, squares, tiles};
use super::{Axis, Caps, Count, Fit, Kernel, Lang, Launch, Of};
use crate::ops::{Attention, ConvTranspose2d, DepthwiseNorm, DepthwiseResidual, FeedForward, Linear, PixelUnshuffle};
use grids::{
    CLASSES, GROUPS, HIDDEN, ONE, PARTS, PIXEL_TILES, PIXEL_TILES_OF_CLASSES, QUERIES, SPLIT_GEMM, SPLITS, STRIPS,
    THREADS, TILES, WARPS_OF_CHANNELS, WEIGHT,
};

/// SMs of an H100 SXM or H200. An H100 PCIe has 114, an H20 78, a MIG slice fewer: the device is asked.
pub const H100_SMS: usize = 132;

/// `cuda!("op", "op.variant", needs, [passes…])`, then `.with_scratch(…)` where passes share memory.
macro_rules! cuda {
    ($op:literal, $name:literal, $needs:expr, [$($pass:expr),+ $(,)?]) => {
        row($op, $name, $needs, Cuda {
            source: include_str!(concat!("../../kernels/", $name, ".cu")),
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

/// What the kernels for Hopper need, whose GEMM inputs are stored in bf16.
const HOPPER: Caps = Caps::SM90A.and(Caps::ROUND_BF16);

/// A linear layer on tiles, of which the kernel's source states the sizes: `linear!("kernel", pass)`.
macro_rules! linear {
    ($name:literal, $pass:expr) => {
        cuda!("linear", $name, HOPPER, [$pass])
            .with_tiles(&[
                Tile::Rows { operand: Linear::X, per_image: false, rows: "TILE_M", among: "CLUSTER_Y" },
                Tile::Rows { operand: Linear::WEIGHT, per_image: false, rows: "TILE_N", among: "CLUSTER_X" },
            ])
            .fit(&[
                Fit::GemmInput(Linear::X),
                Fit::ChannelsMultipleOf(8),
                Fit::GemmInput(Linear::WEIGHT),
                Fit::Learned(Linear::WEIGHT),
                Fit::Fastest,
            ])
    };
}

/// The same, which multiplies all of K in one block: `whole_k!("kernel", "entry")`.
macro_rules! whole_k {
    ($name:literal, $entry:literal) => {
        linear!($name, pass($entry, gemm("TILE_M", "TILE_N"))).with_squares(Squares::Left)
    };
}

/// The same with split-K: `split_k!("kernel", "entry")`.
macro_rules! split_k {
    ($name:literal, $entry:literal) => {
        linear!($name, pass($entry, SPLIT_GEMM))
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

/// An attention whose blocks have as many queries as the kernel's source states: `flash!("kernel", "entry")`.
macro_rules! flash {
    ($name:literal, $entry:literal) => {
        cuda!("attention", $name, HOPPER, [pass($entry, QUERIES)])
            .with_tiles(&[
                Tile::Rows { operand: Attention::X, per_image: true, rows: "COPY", among: "" },
                Tile::Rows { operand: Attention::CONTEXT, per_image: true, rows: "COPY", among: "" },
            ])
            .fit(&[
                Fit::GemmInput(Attention::X),
                Fit::GemmInputOrAbsent(Attention::CONTEXT),
                Fit::HeadDim(64),
                Fit::Fastest,
            ])
    };
}

/// A feed-forward block of so many channels, and four times as many hidden values: `feed_forward!("kernel", "entry", channels)`.
macro_rules! feed_forward {
    ($name:literal, $entry:literal, $channels:literal) => {
        cuda!("feed_forward", $name, HOPPER, [pass($entry, rows("TILE_M"))])
            .with_tiles(&[
                Tile::Rows { operand: FeedForward::W0, per_image: false, rows: "TILE_H", among: "CLUSTER_X" },
                Tile::Rows { operand: FeedForward::W2, per_image: false, rows: "TILE_N", among: "CLUSTER_X" },
            ])
            .fit(&[
                Fit::Matrix(FeedForward::W0, 4 * $channels, $channels),
                Fit::GemmInput(FeedForward::W0),
                Fit::GemmInput(FeedForward::W2),
                Fit::Learned(FeedForward::W0),
                Fit::Learned(FeedForward::W2),
                Fit::Learned(FeedForward::B0),
                Fit::Learned(FeedForward::B2),
            ])
    };
}

/// A transposed convolution of non-overlapping patches of two by two pixels: `upsample!("kernel", "entry")`.
macro_rules! upsample {
    ($name:literal, $entry:literal) => {
        cuda!("conv_transpose2d", $name, HOPPER, [pass($entry, PIXEL_TILES)])
            .with_tiles(&[
                Tile::Pixels { operand: ConvTranspose2d::X, among: "CLUSTER_X" },
                Tile::Columns { operand: ConvTranspose2d::WEIGHT, laid_out: None, among: "CLUSTER_Y" },
            ])
            .fit(&[
                Fit::KernelSize(ConvTranspose2d::WEIGHT, 2),
                Fit::Constant(ConvTranspose2d::STRIDE, 2),
                Fit::Constant(ConvTranspose2d::PADDING, 0),
                Fit::ChannelsMultipleOf(8),
                Fit::GemmInput(ConvTranspose2d::X),
                Fit::GemmInput(ConvTranspose2d::WEIGHT),
                Fit::Learned(ConvTranspose2d::WEIGHT),
                Fit::Fastest,
            ])
    };
}

/// What kernels that move float4 ask for: no more than they have registers or threads for.
const FLOAT4_FIT: &[Fit] = &[Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048)];

#[rustfmt::skip]
pub(super) static ROWS: &[Kernel] = &[
    only!("activation", THREADS),
    cuda!("add", "add.float4", Caps::NONE, [pass("add_float4", elements("ELEMENTS"))]).fit(&[Fit::ChannelsMultipleOf(4)]),
    only!("add", THREADS),
    only!("advance", ONE),
    flash!("attention.192.sm90a", "attention_192_sm90a"),
    flash!("attention.320.sm90a", "attention_320_sm90a"),
    cuda!("attention", "attention.mma", Caps::ROUND_BF16, [pass("attention_mma", QUERIES)]).fit(&[Fit::HeadDimAtMost(64)]),
    only!("attention", QUERIES),
    only!("batch_norm", THREADS),
    cuda!("concat", "concat.float4", Caps::NONE, [pass("concat_float4", elements("ELEMENTS"))]).fit(&[Fit::ChannelsMultipleOf(4)]),
    only!("concat", THREADS),
    cuda!("conv2d", "conv2d.mma", Caps::ROUND_BF16, [pass("conv2d_mma", gemm("TILE_M", "TILE_N"))]),
    only!("conv2d", gemm("TILE_M", "TILE_N")),
    upsample!("conv_transpose2d.128x96.sm90a", "conv_transpose2d_128x96_sm90a"),
    upsample!("conv_transpose2d.128x160.sm90a", "conv_transpose2d_128x160_sm90a"),
    cuda!("conv_transpose2d", "conv_transpose2d.4x4.sm90a", HOPPER, [
        pass("conv_transpose2d_4x4_sm90a_weight", [
            Axis::every(WEIGHT, "LAID_OUT"),
            Axis::ONE,
            Axis::ONE,
        ]),
        pass("conv_transpose2d_4x4_sm90a", PIXEL_TILES_OF_CLASSES),
    ]).with_scratch(&[Axis::every(WEIGHT, "PAIR")])
    .with_tiles(&[
        Tile::Pixels { operand: ConvTranspose2d::X, among: "CLUSTER_X" },
        Tile::Columns { operand: ConvTranspose2d::WEIGHT, laid_out: Some(4), among: "CLUSTER_Y" },
    ])
    .fit(&[
        Fit::KernelSize(ConvTranspose2d::WEIGHT, 4),
        Fit::Constant(ConvTranspose2d::STRIDE, 2),
        Fit::Constant(ConvTranspose2d::PADDING, 1),
        Fit::ChannelsMultipleOf(32),
        Fit::GemmInput(ConvTranspose2d::X),
        Fit::GemmInput(ConvTranspose2d::WEIGHT),
    ]),
    cuda!("conv_transpose2d", "conv_transpose2d.mma", Caps::ROUND_BF16, [pass("conv_transpose2d_mma", CLASSES)]),
    only!("conv_transpose2d", CLASSES),
    cuda!("count_non_finite", "count_non_finite", Caps::NONE, [
        pass("count_non_finite_clear", ONE),
        pass("count_non_finite", [Axis::every(Count::Elements(Of::FIRST), "ELEMENTS"), Axis::ONE, Axis::ONE]),
    ]),
    only!("denoise", THREADS),
    only!("depthwise_conv", THREADS),
    cuda!("depthwise_norm", "depthwise_norm.160.sm90a", Caps::SM90A, [pass("depthwise_norm_160_sm90a", TILES).in_clusters()])
        .fit(&[
            Fit::KernelSize(DepthwiseNorm::WEIGHT, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(640),
            Fit::Learned(DepthwiseNorm::WEIGHT), Fit::Learned(DepthwiseNorm::BIAS),
        ]),
    cuda!("depthwise_norm", "depthwise_norm.512.sm90a", Caps::SM90A, [pass("depthwise_norm_512_sm90a", TILES).in_clusters()])
        .fit(&[
            Fit::KernelSize(DepthwiseNorm::WEIGHT, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048),
            Fit::Learned(DepthwiseNorm::WEIGHT), Fit::Learned(DepthwiseNorm::BIAS),
        ]),
    cuda!("depthwise_norm", "depthwise_norm.3x3", Caps::NONE, [
        pass("depthwise_norm_3x3", squares("TILE")).with_warps(WARPS_OF_CHANNELS),
    ]).fit(&[Fit::KernelSize(DepthwiseNorm::WEIGHT, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048)]),
    only!("depthwise_norm", rows("PIXELS")).with_scratch(&[Axis::each(Count::Elements(Of::Out))]),
    cuda!("depthwise_residual", "depthwise_residual.3x3", Caps::NONE, [
        pass("depthwise_residual_3x3", squares("TILE")).with_warps(WARPS_OF_CHANNELS),
    ]).fit(&[Fit::KernelSize(DepthwiseResidual::WEIGHT, 3), Fit::ChannelsMultipleOf(4), Fit::ChannelsAtMost(2048)]),
    only!("depthwise_residual", THREADS),
    only!("embed", THREADS),
    feed_forward!("feed_forward.384.sm90a", "feed_forward_384_sm90a", 384),
    feed_forward!("feed_forward.192.sm90a", "feed_forward_192_sm90a", 192),
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
        pass("feed_forward", gemm("TILE_M", "TILE_N")),
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
    only!("guide", THREADS),
    only!("guide_projected", [Axis::each(Count::Images(Of::Out)), Axis::ONE, Axis::ONE]),
    cuda!("layer_norm", "layer_norm.registers", Caps::NONE, [pass("layer_norm_registers", rows("ROWS"))]).fit(FLOAT4_FIT),
    only!("layer_norm", rows("ROWS")),
    whole_k!("linear.192x192.sm90a", "linear_192x192_sm90a"),
    whole_k!("linear.192x144.sm90a", "linear_192x144_sm90a"),
    whole_k!("linear.192x96.sm90a", "linear_192x96_sm90a"),
    whole_k!("linear.128x256.sm90a", "linear_128x256_sm90a"),
    whole_k!("linear.128x240.sm90a", "linear_128x240_sm90a"),
    whole_k!("linear.128x160.sm90a", "linear_128x160_sm90a"),
    whole_k!("linear.128x80.sm90a", "linear_128x80_sm90a"),
    split_k!("linear.192x192.split2.sm90a", "linear_192x192_split2_sm90a"),
    split_k!("linear.192x96.split3.sm90a", "linear_192x96_split3_sm90a"),
    split_k!("linear.192x64.split4.sm90a", "linear_192x64_split4_sm90a"),
    split_k!("linear.128x160.split2.sm90a", "linear_128x160_split2_sm90a"),
    split_k!("linear.128x80.split4.sm90a", "linear_128x80_split4_sm90a"),
    cuda!("linear", "linear.mma_rows", Caps::ROUND_BF16, [pass("linear_mma_rows", gemm("TILE_M", "TILE_N"))])
        .fit(&[Fit::RowsAtMost(256)]),
    cuda!("linear", "linear.mma", Caps::ROUND_BF16, [pass("linear_mma", gemm("TILE_M", "TILE_N"))]).with_squares(Squares::Left),
    only!("linear", gemm("TILE_M", "TILE_N")),
    only!("leaky_relu", THREADS),
    only!("mean", channels("CHANNELS")),
    only!("modulate", THREADS),
    only!("nearest_code", rows("ROWS")),
    only!("philox", THREADS),
    only!("pixel_shuffle", THREADS),
    cuda!("pixel_unshuffle", "pixel_unshuffle.float4", Caps::NONE, [pass("pixel_unshuffle_float4", elements("ELEMENTS"))])
        .fit(&[Fit::Constant(PixelUnshuffle::PATCH, 2), Fit::ChannelsMultipleOf(4)]),
    only!("pixel_unshuffle", THREADS),
    only!("resample", THREADS),
    only!("scale", THREADS),
    only!("to_rgb8", THREADS),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers in a kernel's name are those that its source states.
    #[test]
    fn names_say_what_sources_state() {
        let mut compared = 0;
        for kernel in ROWS {
            let Launch::Cuda(cuda) = kernel.launch else { unreachable!("rows of CUDA are CUDA") };
            let of = |name: &str| cuda.number(name).unwrap_or_else(|| panic!("{}: no number {name}", kernel.name));
            let stated = match kernel.op {
                "linear" if kernel.needs.contains(Caps::SM90A) => match cuda.number("SPLITS") {
                    Some(splits) => format!("{}x{}.split{splits}", of("TILE_M"), of("TILE_N")),
                    None => format!("{}x{}", of("TILE_M"), of("TILE_N")),
                },
                "attention" if kernel.needs.contains(Caps::SM90A) => of("QUERIES").to_string(),
                "feed_forward" if kernel.needs.contains(Caps::SM90A) => {
                    let (channels, hidden) = (of("C") as usize, of("HIDDEN") as usize);
                    assert_eq!(kernel.fit[0], Fit::Matrix(FeedForward::W0, hidden, channels), "{}", kernel.name);
                    channels.to_string()
                }
                "conv_transpose2d" if cuda.number("TAPS") == Some(1) => {
                    format!("{}x{}", of("TILE_H") * of("TILE_W"), of("TILE_N"))
                }
                "depthwise_norm" if kernel.needs.contains(Caps::SM90A) => of("CHANNELS").to_string(),
                _ => continue,
            };
            assert_eq!(kernel.name, format!("{}.{stated}.sm90a", kernel.op));
            compared += 1;
        }
        assert_eq!(compared, 12 + 2 + 2 + 2 + 2, "every kernel whose name has its sizes is compared");
    }

    /// An entry point is called like its kernel's file, but for what follows in another pass.
    #[test]
    fn entries_are_called_like_their_files() {
        for kernel in ROWS {
            let Launch::Cuda(cuda) = kernel.launch else { unreachable!("rows of CUDA are CUDA") };
            for pass in cuda.passes {
                assert!(pass.entry.starts_with(&kernel.name.replace('.', "_")), "{}: {}", kernel.name, pass.entry);
            }
        }
    }
}
