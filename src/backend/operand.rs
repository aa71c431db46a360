//! What the kernels of a GPU are told of their operands.

use super::weights::{Memory, Weights};
use crate::plan::{Node, Source};
use crate::tensor::Dtype;

/// What an operand is, as kernels number it; `shaders/common.wgsl`, `kernels/common.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
enum Kind {
    Absent = 0,
    F32 = 1,
    F16 = 2,
    Bf16 = 3,
    InPlace = 4,
}

/// The kind of each operand of a node.
pub(super) fn kinds<M: Memory>(node: &Node, weights: &Weights<M>) -> Vec<u32> {
    let kind = |(i, source): (usize, &Option<Source>)| match *source {
        None => Kind::Absent,
        Some(Source::Slot(_)) if node.aliased == Some(i) => Kind::InPlace,
        Some(Source::Slot(_)) => Kind::F32,
        Some(Source::Weight(w, _)) => match weights.place(w).dtype {
            Dtype::F32 => Kind::F32,
            Dtype::F16 => Kind::F16,
            Dtype::Bf16 => Kind::Bf16,
        },
    };
    node.inputs.iter().enumerate().map(|operand| kind(operand) as u32).collect()
}
