//! The registry: one row per kernel.
//!
//! A row says which op the kernel computes, what the device must have
//! ([`Kernel::needs`]), which shapes it serves ([`Kernel::fit`]) and how it is
//! launched. The first row of an op whose needs and fit are met is used; the
//! last row of every op in a language needs nothing and fits anything. Tests
//! and benches take their lists from here.

use crate::backend::cpu;
use crate::ops::Op;
use crate::plan::Node;
use crate::shape::Shape;
use crate::tensor::Dtype;

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
    /// The result's channels are a multiple of this.
    ChannelsMultiple(usize),
    /// The op's second operand, a weight, is stored in this type.
    WeightDtype(Dtype),
}

impl Fit {
    /// Whether a node with this weight and result fits.
    pub fn met(&self, weight: Option<Dtype>, out: Shape) -> bool {
        match *self {
            Fit::ChannelsMultiple(m) => out.c.is_multiple_of(m),
            Fit::WeightDtype(dtype) => weight == Some(dtype),
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

/// The row for an op on shapes, and the rows passed over before it.
///
/// # Panics
/// If the op has no row in the language, which a test excludes.
pub fn choose(
    op: &Op,
    lang: Lang,
    caps: Caps,
    weight: Option<Dtype>,
    out: Shape,
) -> (&'static Kernel, Vec<(&'static Kernel, Reason)>) {
    let mut passed = Vec::new();
    for kernel in kernels(lang).filter(|k| k.op == op.name()) {
        if !caps.contains(kernel.needs) {
            passed.push((kernel, Reason::Needs(kernel.needs.without(caps))));
        } else if let Some(fit) = kernel.fit.iter().find(|fit| !fit.met(weight, out)) {
            passed.push((kernel, Reason::Fit(*fit)));
        } else {
            return (kernel, passed);
        }
    }
    panic!("{} has a row in {lang:?} that fits anything", op.name())
}

/// The row for a node of a plan.
pub fn choose_for(
    node: &Node,
    weights: &[crate::tensor::Weight],
    lang: Lang,
    caps: Caps,
) -> (&'static Kernel, Vec<(&'static Kernel, Reason)>) {
    let weight = match node.inputs.get(1) {
        Some(Some(crate::plan::Source::Weight(i, _))) => weights[*i].parts().first().map(|p| p.dtype()),
        _ => None,
    };
    choose(&node.op, lang, caps, weight, node.output.shape)
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

/// Every kernel. Within an op and a language, the first row that can be used is.
pub static KERNELS: &[Kernel] = &[
    reference("activation"),
    reference("add"),
    reference("advance"),
    reference("attention"),
    reference("batch_norm"),
    reference("concat"),
    reference("conv2d"),
    reference("conv_transpose2d"),
    reference("count_non_finite"),
    reference("denoise"),
    reference("depthwise_norm"),
    reference("depthwise_residual"),
    reference("embed"),
    reference("feed_forward"),
    reference("gather"),
    reference("grn_scale"),
    reference("group_norm"),
    reference("layer_norm"),
    reference("linear"),
    reference("modulate"),
    reference("nearest_code"),
    reference("pixel_shuffle"),
    reference("pixel_unshuffle"),
    reference("resample"),
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
