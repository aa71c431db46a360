//! The registry: one row per kernel.
//!
//! A row says which op the kernel computes, what the device must have
//! ([`Kernel::needs`]), which shapes it serves (its `fit`) and how it is
//! launched. The first row of an op whose needs and fit are met is used; the
//! last row of every op in a language needs nothing and fits anything. Tests
//! and benches take their lists from here.

use crate::backend::cpu::{self, launch};
use crate::cpu::Isa;
use crate::plan::{Node, Source};
use crate::tensor::{Dtype, Weight};

/// What a kernel is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    /// Rust, run on the host's cores.
    Cpu,
}

/// What a device can do, as a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps(u32);

impl Caps {
    /// Nothing beyond the language itself.
    pub const NONE: Caps = Caps(0);
    /// x86 AVX2 and FMA.
    pub const AVX2: Caps = Caps(1);
    /// x86 AVX-512 F, BW, VL and DQ.
    pub const AVX512: Caps = Caps(1 << 1);
    /// x86 AVX512-BF16.
    pub const AVX512_BF16: Caps = Caps(1 << 2);
    /// The user allows factors to be rounded to bf16 (`--dtype bf16`).
    pub const ROUND_BF16: Caps = Caps(1 << 3);

    const NAMES: &[(Caps, &str)] = &[
        (Caps::AVX2, "avx2"),
        (Caps::AVX512, "avx512"),
        (Caps::AVX512_BF16, "avx512_bf16"),
        (Caps::ROUND_BF16, "round_bf16"),
    ];

    /// Both sets together.
    pub const fn and(self, other: Caps) -> Caps {
        Caps(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Caps) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in this set and not in `other`.
    pub const fn without(self, other: Caps) -> Caps {
        Caps(self.0 & !other.0)
    }
}

impl std::fmt::Display for Caps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = Self::NAMES.iter().filter(|(c, _)| self.contains(*c)).map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "nothing" } else { "" })?;
        f.write_str(&names.join(" + "))
    }
}

/// A condition on shapes, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The window of a convolution, the op's second operand, is at most this wide.
    WindowAtMost(usize),
    /// The op's second operand, a weight, is stored in this type.
    WeightDtype(Dtype),
}

impl Fit {
    /// Whether a node with these operands fits.
    pub fn met(&self, inputs: &[Option<Source>], weights: &[Weight]) -> bool {
        let Some(Some(Source::Weight(weight, shape))) = inputs.get(1) else { return false };
        match *self {
            Fit::WindowAtMost(max) => shape.w.max(shape.c) <= max,
            Fit::WeightDtype(dtype) => weights[*weight].parts().iter().all(|p| p.dtype() == dtype),
        }
    }
}

/// One kernel.
#[derive(Debug)]
pub struct Kernel {
    /// The op's name.
    pub op: &'static str,
    /// `<op>.<variant>`, or the file's name.
    pub name: &'static str,
    /// What it is written in.
    pub lang: Lang,
    /// What the device must have.
    pub needs: Caps,
    /// Conditions on shapes, all to be met.
    pub fit: &'static [Fit],
    /// How it is launched.
    pub launch: Launch,
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub enum Launch {
    /// A function of the CPU backend.
    Cpu(cpu::Kernel),
}

impl Kernel {
    const fn fit(self, fit: &'static [Fit]) -> Kernel {
        Kernel { fit, ..self }
    }

    /// Whether factors are rounded to bf16, so that the looser tolerance of a case applies.
    pub fn rounds(&self) -> bool {
        self.needs.contains(Caps::ROUND_BF16)
    }
}

/// Why a row was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The device lacks this.
    Needs(Caps),
    /// The shape does not meet this.
    Fit(Fit),
}

/// The row for a node of a plan with these weights, and the rows passed over before it.
///
/// # Panics
/// If the op has no row in the language, which a test excludes.
pub fn choose(
    node: &Node,
    weights: &[Weight],
    lang: Lang,
    caps: Caps,
) -> (&'static Kernel, Vec<(&'static Kernel, Reason)>) {
    let mut passed = Vec::new();
    for kernel in kernels(lang).filter(|k| k.op == node.op.name()) {
        if !caps.contains(kernel.needs) {
            passed.push((kernel, Reason::Needs(kernel.needs.without(caps))));
        } else if let Some(fit) = kernel.fit.iter().find(|fit| !fit.met(&node.inputs, weights)) {
            passed.push((kernel, Reason::Fit(*fit)));
        } else {
            return (kernel, passed);
        }
    }
    panic!("{} has a row in {lang:?} that fits anything", node.op.name())
}

/// All rows of a language.
pub fn kernels(lang: Lang) -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().filter(move |k| k.lang == lang)
}

const fn row(op: &'static str, name: &'static str, needs: Caps, kernel: cpu::Kernel) -> Kernel {
    Kernel { op, name, lang: Lang::Cpu, needs, fit: &[], launch: Launch::Cpu(kernel) }
}

/// The row of an op's own definition.
const fn reference(op: &'static str) -> Kernel {
    row(op, "reference", Caps::NONE, cpu::REFERENCE)
}

/// What [`Isa::Avx512Bf16`] needs; factors of products are rounded.
const BF16: Caps = Caps::AVX512_BF16.and(Caps::AVX512).and(Caps::ROUND_BF16);

/// Every kernel. Within an op and a language, the first row that can be used is.
#[rustfmt::skip]
pub static KERNELS: &[Kernel] = &[
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
    row("depthwise_norm", "depthwise_norm.avx512", Caps::AVX512, launch::depthwise_norm(Isa::Avx512)).fit(&[Fit::WindowAtMost(7)]),
    row("depthwise_norm", "depthwise_norm.avx2", Caps::AVX2, launch::depthwise_norm(Isa::Avx2)).fit(&[Fit::WindowAtMost(7)]),
    row("depthwise_norm", "depthwise_norm", Caps::NONE, launch::depthwise_norm(Isa::Portable)).fit(&[Fit::WindowAtMost(7)]),
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
    row("layer_norm", "layer_norm.avx512", Caps::AVX512, launch::layer_norm(Isa::Avx512)),
    row("layer_norm", "layer_norm.avx2", Caps::AVX2, launch::layer_norm(Isa::Avx2)),
    row("layer_norm", "layer_norm", Caps::NONE, launch::layer_norm(Isa::Portable)),
    row("linear", "linear.avx512_bf16", BF16, launch::linear(Isa::Avx512Bf16)),
    row("linear", "linear.avx512", Caps::AVX512, launch::linear(Isa::Avx512)),
    row("linear", "linear.avx2", Caps::AVX2, launch::linear(Isa::Avx2)),
    row("linear", "linear", Caps::NONE, launch::linear(Isa::Portable)),
    reference("mean"),
    reference("modulate"),
    reference("nearest_code"),
    reference("pixel_shuffle"),
    reference("pixel_unshuffle"),
    row("resample", "resample.avx512", Caps::AVX512, launch::resample(Isa::Avx512)),
    row("resample", "resample.avx2", Caps::AVX2, launch::resample(Isa::Avx2)),
    row("resample", "resample", Caps::NONE, launch::resample(Isa::Portable)),
    reference("scale"),
    reference("to_rgb8"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_of_every_op_serves_anything() {
        for op in crate::ops::NAMES {
            let last = kernels(Lang::Cpu).filter(|k| k.op == *op).last();
            let last = last.unwrap_or_else(|| panic!("{op} has no row"));
            assert!(last.needs == Caps::NONE && last.fit.is_empty(), "{op}: {}", last.name);
        }
    }

    #[test]
    fn every_row_names_an_op() {
        for kernel in KERNELS {
            assert!(crate::ops::NAMES.contains(&kernel.op), "{}", kernel.op);
        }
    }
}
