//! The registry: one row per kernel.
//!
//! A row says which op the kernel computes, what the device must have
//! ([`Kernel::needs`]), which shapes it serves (its [`Fit`]s) and how it is
//! launched. The first row of an op whose needs and fits are met is used; the
//! last row of every op in a language needs nothing and fits anything. Tests
//! and benches take their lists from here.
//!
//! ```text
//! registry      the rows and how one is chosen
//! ├ caps, fit   what a row asks of a device and of shapes
//! ├ grid        how many workgroups a GPU's kernel takes
//! ├ cpu         rows of functions
//! ├ wgsl        rows of shaders
//! └ cuda        rows of CUDA kernels, their launch form, and what they are estimated to take on a Hopper GPU
//! ```

mod caps;
mod cpu;
pub mod cuda;
mod fit;
mod grid;
mod wgsl;

pub use caps::Caps;
pub use fit::Fit;
pub use grid::{Axis, Count, Grid, Of, Pass};
pub use wgsl::{Shader, Shared};

use cuda::Cuda;

use crate::plan::{Node, Plan};

/// What a kernel is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Lang {
    /// Rust, run on the host's cores.
    Cpu,
    /// WGSL, run on any GPU that Vulkan, Metal or DX12 can reach.
    Wgsl,
    /// CUDA C++, run on an NVIDIA GPU of compute capability 8.0 or above.
    Cuda,
}

impl Lang {
    /// Every language.
    pub const ALL: [Lang; 3] = [Lang::Cpu, Lang::Wgsl, Lang::Cuda];

    /// The 16-bit format that kernels in this language round GEMM inputs to where they may: WGSL has no bf16.
    pub const fn rounding(self) -> Caps {
        match self {
            Lang::Cpu | Lang::Cuda => Caps::ROUND_BF16,
            Lang::Wgsl => Caps::ROUND_F16,
        }
    }
}

/// What kernels are chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The language of the device's kernels.
    pub lang: Lang,
    /// What the device can do.
    pub caps: Caps,
    /// The SMs of a CUDA device, among which a kernel's blocks are shared out; not looked at in other languages.
    pub sms: usize,
}

impl Target {
    /// A device of these capabilities; one of CUDA has the SMs of an H100 SXM.
    pub const fn new(lang: Lang, caps: Caps) -> Self {
        Self { lang, caps, sms: cuda::H100_SMS }
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
    /// A function that the host calls.
    Cpu(crate::cpu::call::Kernel),
    /// A shader.
    Wgsl(Shader),
    /// Kernels of a CUDA file.
    Cuda(Cuda),
}

impl Kernel {
    const fn fit(self, fit: &'static [Fit]) -> Kernel {
        Kernel { fit, ..self }
    }

    /// Elements of memory that the passes of a GPU's kernel share, as the product of these.
    const fn with_scratch(self, scratch: &'static [Axis]) -> Kernel {
        let launch = match self.launch {
            Launch::Wgsl(shader) => Launch::Wgsl(Shader { scratch, ..shader }),
            Launch::Cuda(cuda) => Launch::Cuda(Cuda { scratch, ..cuda }),
            Launch::Cpu(_) => panic!("the CPU's kernels say themselves what they need"),
        };
        Kernel { launch, ..self }
    }

    /// Why the row cannot serve a node, if it cannot.
    fn obstacle(&self, node: &Node, plan: &Plan, target: Target) -> Option<Reason> {
        if !target.caps.contains(self.needs) {
            return Some(Reason::Needs(self.needs.without(target.caps)));
        }
        // What the row cannot do without comes before what it is only slower without.
        let unmet = self.fit.iter().filter(|fit| !fit.met(self, node, plan, target.sms));
        let unmet = unmet.min_by_key(|fit| fit.is_preference());
        unmet.map(|fit| Reason::Fit(*fit))
    }

    /// Whether GEMM inputs are rounded to bf16, f16 or int8, so that the looser tolerance of a case applies.
    pub fn rounds(&self) -> bool {
        self.needs.common(Caps::ROUNDING) != Caps::NONE
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

/// The row for a node of `plan`, and the rows passed over before it.
///
/// # Panics
/// If the op has no row in the language, which a test excludes.
pub fn choose(node: &Node, plan: &Plan, target: Target) -> (&'static Kernel, Vec<(&'static Kernel, Reason)>) {
    let mut passed = Vec::new();
    for kernel in kernels(target.lang).filter(|k| k.op == node.op.name()) {
        match kernel.obstacle(node, plan, target) {
            Some(reason) => passed.push((kernel, reason)),
            None => return (kernel, passed),
        }
    }
    panic!("{} has a row in {:?} that fits anything", node.op.name(), target.lang)
}

/// Every row that could serve a node of `plan`: the one that is chosen, then the others in the registry's order.
pub fn admissible<'a>(node: &'a Node, plan: &'a Plan, target: Target) -> impl Iterator<Item = &'static Kernel> + 'a {
    let chosen = choose(node, plan, target).0;
    let others = kernels(target.lang).filter(move |k| k.op == node.op.name() && !std::ptr::eq(*k, chosen));
    [chosen].into_iter().chain(others.filter(move |k| match k.obstacle(node, plan, target) {
        Some(Reason::Fit(fit)) => fit.is_preference(),
        obstacle => obstacle.is_none(),
    }))
}

/// All rows of a language. Within an op, the first that can be used is.
pub fn kernels(lang: Lang) -> impl Iterator<Item = &'static Kernel> {
    match lang {
        Lang::Cpu => cpu::ROWS,
        Lang::Wgsl => wgsl::ROWS,
        Lang::Cuda => cuda::ROWS,
    }
    .iter()
}

/// Every kernel there is.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    Lang::ALL.into_iter().flat_map(kernels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_of_every_op_serves_anything() {
        for lang in Lang::ALL {
            for op in crate::ops::NAMES {
                let last = kernels(lang).filter(|k| k.op == *op).last();
                let last = last.unwrap_or_else(|| panic!("{op} has no row in {lang:?}"));
                assert!(last.needs == Caps::NONE && last.fit.is_empty(), "{op}: {}", last.name);
            }
        }
    }

    #[test]
    fn every_row_names_an_op() {
        for kernel in all() {
            assert!(crate::ops::NAMES.contains(&kernel.op), "{}", kernel.op);
        }
    }
}
