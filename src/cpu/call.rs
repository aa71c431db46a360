//! The interface of CPU kernels: their arguments, their entry in the registry, and the fallback kernel of every op, its
//! reference implementation.

use super::Isa;
use crate::ops::{Element, Op, Shapes};
use crate::shape::Shape;
use crate::tensor::{Data, Tensor};

/// The largest number of operands of any op.
pub const MAX_OPERANDS: usize = 8;

/// The arguments of a kernel: a node and its operands.
#[derive(Debug)]
pub struct Call<'a> {
    /// The op with its constants.
    pub op: &'a Op,
    /// The instruction set to use.
    pub isa: Isa,
    /// Operands in the op's order. The [aliased](Self::aliased) one is `None`.
    pub inputs: &'a [Option<Tensor<'a>>],
    /// If the node works in place: the operand whose values are in `out` before the call.
    pub aliased: Option<usize>,
    /// Shape of the result.
    pub shape: Shape,
    /// The result; u32 elements are stored as bits.
    pub out: &'a mut [f32],
    /// Scratch memory of at least [`Kernel::scratch`] elements, with arbitrary contents.
    pub scratch: &'a mut [f32],
}

impl<'a> Call<'a> {
    /// An operand that is neither optional nor aliased.
    ///
    /// # Panics
    /// If the operand is absent. The op's shape rule rules this out.
    pub fn tensor(&self, operand: usize) -> Tensor<'a> {
        self.inputs[operand].unwrap_or_else(|| panic!("{} has operand {operand}", self.op.name()))
    }
}

/// A kernel's entry in the registry.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// The instruction set to use.
    pub isa: Isa,
    /// Computes the node.
    pub run: fn(Call<'_>),
    /// f32 of scratch that it needs for operands and a result of these shapes.
    pub scratch: fn(&Op, Shapes<'_>, Shape) -> usize,
}

/// The op's reference implementation as a kernel. Reference implementations do not support
/// aliasing, so an aliased operand is copied first.
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
