//! What a CPU kernel is called with, what the registry keeps of it, and the kernel that every op has: its definition.

use super::Isa;
use crate::ops::{Element, Op, Shapes};
use crate::shape::Shape;
use crate::tensor::{Data, Tensor};

/// Most operands that an op takes.
pub const MAX_OPERANDS: usize = 8;

/// A node as its kernel sees it.
#[derive(Debug)]
pub struct Call<'a> {
    /// The op with its constants.
    pub op: &'a Op,
    /// Instruction set of the kernel's row.
    pub isa: Isa,
    /// Operands in the op's order. The [aliased](Self::aliased) one is `None`.
    pub inputs: &'a [Option<Tensor<'a>>],
    /// The operand whose values lie in `out`, if one's do.
    pub aliased: Option<usize>,
    /// Extent of the result.
    pub shape: Shape,
    /// The result; U32 elements as bits.
    pub out: &'a mut [f32],
    /// At least as many elements as the kernel asked for; contents arbitrary.
    pub scratch: &'a mut [f32],
}

impl<'a> Call<'a> {
    /// An operand that is neither optional nor aliased.
    ///
    /// # Panics
    /// If it is absent, which the op's shape rule excludes.
    pub fn tensor(&self, operand: usize) -> Tensor<'a> {
        self.inputs[operand].unwrap_or_else(|| panic!("{} has operand {operand}", self.op.name()))
    }
}

/// A kernel as the registry names it.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Instruction set that it is run with.
    pub isa: Isa,
    /// Computes the node.
    pub run: fn(Call<'_>),
    /// Elements of scratch that it needs for operands of these shapes.
    pub scratch: fn(&Op, Shapes<'_>, Shape) -> usize,
}

/// The op's own definition as a kernel. It knows nothing of aliasing: the
/// aliased operand is copied aside first.
pub const REFERENCE: Kernel = Kernel {
    isa: Isa::Portable,
    run: |call| {
        let Some(operand) = call.aliased else {
            return call.op.reference(call.inputs, call.out, call.shape);
        };
        let copy = &mut call.scratch[..call.out.len()];
        copy.copy_from_slice(call.out);
        let data = match call.op.element() {
            Element::F32 | Element::GemmInput => Data::F32(copy),
            Element::U32 => Data::U32(bytemuck::cast_slice(copy)),
        };
        let mut inputs = [None; MAX_OPERANDS];
        inputs[..call.inputs.len()].copy_from_slice(call.inputs);
        inputs[operand] = Some(Tensor { shape: call.shape, data });
        call.op.reference(&inputs[..call.inputs.len()], call.out, call.shape);
    },
    scratch: |op, _, out| if op.in_place().is_some() { out.elements() } else { 0 },
};
