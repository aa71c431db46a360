//! Rows of kernels that run on the host's cores.

use super::{Caps, Fit, Kernel, Lang, Launch};
use crate::cpu::{Isa, call, launch};
use crate::ops::{DepthwiseNorm, Linear};

const fn row(op: &'static str, name: &'static str, needs: Caps, kernel: call::Kernel) -> Kernel {
    Kernel { op, name, lang: Lang::Cpu, needs, fit: &[], launch: Launch::Cpu(kernel) }
}

/// The row of an op's own definition.
const fn reference(op: &'static str) -> Kernel {
    row(op, "reference", Caps::NONE, call::REFERENCE)
}

/// What [`Isa::Avx512Bf16`] needs; GEMM inputs are rounded.
const BF16: Caps = Caps::AVX512_BF16.and(Caps::AVX512).and(Caps::ROUND_BF16);

/// Layers with int8 weights, whose inputs are rounded to int8 too; of more channels than these, sums of products of which
/// one factor is below 256 and the other below 128 could exceed i32.
const INT8: &[Fit] = &[Fit::Int8(Linear::WEIGHT), Fit::ChannelsAtMost(1 << 16)];

/// Most rows of an image with which reading a weight as it lies in memory is faster than packing it. It is the rows of one
/// image that count, so that results do not depend on how many images are made at once.
const FEW: Fit = Fit::ImageRowsAtMost(32);
/// Layers of few rows.
const FEW_WIDE: &[Fit] = &[FEW];
/// Layers of few rows whose weights are int8.
const FEW_INT8: &[Fit] = &[FEW, INT8[0], INT8[1]];

#[rustfmt::skip]
pub(super) static ROWS: &[Kernel] = &[
    reference("activation"),
    row("add", "add.avx512", Caps::AVX512, launch::add(Isa::Avx512)),
    row("add", "add.avx2", Caps::AVX2, launch::add(Isa::Avx2)),
    row("add", "add", Caps::NONE, launch::add(Isa::Portable)),
    reference("advance"),
    row("attention", "attention.avx512_bf16", BF16, launch::attention(Isa::Avx512Bf16)),
    row("attention", "attention.avx512", Caps::AVX512, launch::attention(Isa::Avx512)),
    row("attention", "attention.avx2", Caps::AVX2, launch::attention(Isa::Avx2)),
    row("attention", "attention", Caps::NONE, launch::attention(Isa::Portable)),
    reference("batch_norm"),
    reference("concat"),
    row("conv2d", "conv2d.avx512_bf16", BF16, launch::conv2d(Isa::Avx512Bf16)),
    row("conv2d", "conv2d.avx512", Caps::AVX512, launch::conv2d(Isa::Avx512)),
    row("conv2d", "conv2d.avx2", Caps::AVX2, launch::conv2d(Isa::Avx2)),
    row("conv2d", "conv2d", Caps::NONE, launch::conv2d(Isa::Portable)),
    row("conv_transpose2d", "conv_transpose2d.avx512_bf16", BF16, launch::conv_transpose2d(Isa::Avx512Bf16)),
    row("conv_transpose2d", "conv_transpose2d.avx512", Caps::AVX512, launch::conv_transpose2d(Isa::Avx512)),
    row("conv_transpose2d", "conv_transpose2d.avx2", Caps::AVX2, launch::conv_transpose2d(Isa::Avx2)),
    row("conv_transpose2d", "conv_transpose2d", Caps::NONE, launch::conv_transpose2d(Isa::Portable)),
    reference("count_non_finite"),
    reference("denoise"),
    reference("depthwise_conv"),
    row("depthwise_norm", "depthwise_norm.avx512", Caps::AVX512, launch::depthwise_norm(Isa::Avx512)).fit(&[Fit::KernelSizeAtMost(DepthwiseNorm::WEIGHT, 7)]),
    row("depthwise_norm", "depthwise_norm.avx2", Caps::AVX2, launch::depthwise_norm(Isa::Avx2)).fit(&[Fit::KernelSizeAtMost(DepthwiseNorm::WEIGHT, 7)]),
    row("depthwise_norm", "depthwise_norm", Caps::NONE, launch::depthwise_norm(Isa::Portable)).fit(&[Fit::KernelSizeAtMost(DepthwiseNorm::WEIGHT, 7)]),
    reference("depthwise_norm"),
    row("depthwise_residual", "depthwise_residual.avx512", Caps::AVX512, launch::depthwise_residual(Isa::Avx512)),
    row("depthwise_residual", "depthwise_residual.avx2", Caps::AVX2, launch::depthwise_residual(Isa::Avx2)),
    row("depthwise_residual", "depthwise_residual", Caps::NONE, launch::depthwise_residual(Isa::Portable)),
    reference("embed"),
    row("feed_forward", "feed_forward.avx512_bf16", BF16, launch::feed_forward(Isa::Avx512Bf16)),
    row("feed_forward", "feed_forward.avx512", Caps::AVX512, launch::feed_forward(Isa::Avx512)),
    row("feed_forward", "feed_forward.avx2", Caps::AVX2, launch::feed_forward(Isa::Avx2)),
    row("feed_forward", "feed_forward", Caps::NONE, launch::feed_forward(Isa::Portable)),
    reference("gate"),
    reference("gather"),
    row("grn_scale", "grn_scale.avx512", Caps::AVX512, launch::grn_scale(Isa::Avx512)),
    row("grn_scale", "grn_scale.avx2", Caps::AVX2, launch::grn_scale(Isa::Avx2)),
    row("grn_scale", "grn_scale", Caps::NONE, launch::grn_scale(Isa::Portable)),
    row("group_norm", "group_norm.avx512", Caps::AVX512, launch::group_norm(Isa::Avx512)),
    row("group_norm", "group_norm.avx2", Caps::AVX2, launch::group_norm(Isa::Avx2)),
    row("group_norm", "group_norm", Caps::NONE, launch::group_norm(Isa::Portable)),
    reference("guide"),
    reference("guide_projected"),
    row("layer_norm", "layer_norm.avx512", Caps::AVX512, launch::layer_norm(Isa::Avx512)),
    row("layer_norm", "layer_norm.avx2", Caps::AVX2, launch::layer_norm(Isa::Avx2)),
    row("layer_norm", "layer_norm", Caps::NONE, launch::layer_norm(Isa::Portable)),
    reference("leaky_relu"),
    row("linear", "linear.few.avx512_vnni", Caps::AVX512_VNNI.and(Caps::AVX512).and(Caps::ROUND_INT8), launch::linear_few(Isa::Avx512Vnni)).fit(FEW_INT8),
    row("linear", "linear.avx512_vnni", Caps::AVX512_VNNI.and(Caps::AVX512).and(Caps::ROUND_INT8), launch::linear_int8(Isa::Avx512Vnni)).fit(INT8),
    row("linear", "linear.few.avx_vnni", Caps::AVX_VNNI.and(Caps::AVX2).and(Caps::ROUND_INT8), launch::linear_few(Isa::AvxVnni)).fit(FEW_INT8),
    row("linear", "linear.avx_vnni", Caps::AVX_VNNI.and(Caps::AVX2).and(Caps::ROUND_INT8), launch::linear_int8(Isa::AvxVnni)).fit(INT8),
    row("linear", "linear.few.avx2_int8", Caps::AVX2.and(Caps::ROUND_INT8), launch::linear_few(Isa::Avx2Int8)).fit(FEW_INT8),
    row("linear", "linear.avx2_int8", Caps::AVX2.and(Caps::ROUND_INT8), launch::linear_int8(Isa::Avx2Int8)).fit(INT8),
    row("linear", "linear.few.int8", Caps::ROUND_INT8, launch::linear_few(Isa::PortableInt8)).fit(FEW_INT8),
    row("linear", "linear.int8", Caps::ROUND_INT8, launch::linear_int8(Isa::PortableInt8)).fit(INT8),
    row("linear", "linear.few.avx512_bf16", BF16, launch::linear_few(Isa::Avx512Bf16)).fit(FEW_WIDE),
    row("linear", "linear.avx512_bf16", BF16, launch::linear(Isa::Avx512Bf16)),
    row("linear", "linear.few.avx512", Caps::AVX512, launch::linear_few(Isa::Avx512)).fit(FEW_WIDE),
    row("linear", "linear.avx512", Caps::AVX512, launch::linear(Isa::Avx512)),
    row("linear", "linear.few.avx2", Caps::AVX2, launch::linear_few(Isa::Avx2)).fit(FEW_WIDE),
    row("linear", "linear.avx2", Caps::AVX2, launch::linear(Isa::Avx2)),
    row("linear", "linear.few", Caps::NONE, launch::linear_few(Isa::Portable)).fit(FEW_WIDE),
    row("linear", "linear", Caps::NONE, launch::linear(Isa::Portable)),
    reference("mean"),
    reference("modulate"),
    reference("nearest_code"),
    reference("philox"),
    reference("pixel_shuffle"),
    row("pixel_unshuffle", "pixel_unshuffle", Caps::NONE, launch::pixel_unshuffle(Isa::Portable)),
    row("resample", "resample.avx512", Caps::AVX512, launch::resample(Isa::Avx512)),
    row("resample", "resample.avx2", Caps::AVX2, launch::resample(Isa::Avx2)),
    row("resample", "resample", Caps::NONE, launch::resample(Isa::Portable)),
    reference("scale"),
    reference("to_rgb8"),
];
