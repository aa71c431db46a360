//! What the kernels of a GPU are told of their operands.

use crate::ops::Element;
use crate::plan::{Node, Plan, Slot, Source};
use crate::tensor::Dtype;

/// What an operand is, as kernels number it; `shaders/common.wgsl`, `kernels/common.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Kind {
    Absent = 0,
    F32 = 1,
    F16 = 2,
    Bf16 = 3,
    InPlace = 4,
}

impl Kind {
    /// Every kind and its name, by number.
    pub(super) const NAMES: [&str; 5] = ["absent", "f32", "f16", "bf16", "in_place"];
}

/// Whether a slot is stored in bf16, on a device that `stores_bf16`.
pub(super) fn is_bf16(plan: &Plan, slot: Slot, stores_bf16: bool) -> bool {
    stores_bf16 && plan.slots[slot.id()].element == Element::GemmInput
}

/// The kind of a slot.
pub(super) fn kind(plan: &Plan, slot: Slot, stores_bf16: bool) -> u32 {
    (if is_bf16(plan, slot, stores_bf16) { Kind::Bf16 } else { Kind::F32 }) as u32
}

/// The kind of each operand of a node of `plan`, whose weights are on the device as `dtype` says.
pub(super) fn kinds(node: &Node, plan: &Plan, dtype: impl Fn(usize) -> Dtype, stores_bf16: bool) -> Vec<u32> {
    let kind = |(i, source): (usize, &Option<Source>)| match *source {
        None => Kind::Absent as u32,
        Some(Source::Slot(_)) if node.aliased == Some(i) => Kind::InPlace as u32,
        Some(Source::Slot(slot)) => self::kind(plan, slot, stores_bf16),
        Some(Source::Weight(w, _)) => match dtype(w) {
            Dtype::F32 => Kind::F32 as u32,
            Dtype::F16 => Kind::F16 as u32,
            Dtype::Bf16 => Kind::Bf16 as u32,
            Dtype::I8 => unreachable!("GPUs have such weights widened"),
        },
    };
    node.inputs.iter().enumerate().map(kind).collect()
}
