//! What a row asks of shapes.

use super::{Kernel, cuda};
use crate::ops::{Element, Op};
use crate::plan::{Node, Plan, Source};
use crate::shape::Shape;

/// A condition on shapes, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// This operand, the weight of a convolution, has at most so many taps a side.
    KernelSizeAtMost(usize, usize),
    /// It has so many taps a side.
    KernelSize(usize, usize),
    /// This operand, a weight, is a matrix of so many rows and columns.
    Matrix(usize, usize, usize),
    /// One of the op's [constants](crate::ops::Define::constants) is this.
    Constant(usize, u32),
    /// The first operand has at most this many channels.
    ChannelsAtMost(usize),
    /// The result's channels are a multiple of this many, and the first operand's.
    ChannelsMultipleOf(usize),
    /// This operand's channels are a multiple of this many.
    OperandMultipleOf(usize, usize),
    /// The result has at least this many elements; with fewer, smaller tiles share the work out better.
    ResultsAtLeast(usize),
    /// The first operand has at most this many rows (pixels or tokens of all images).
    RowsAtMost(usize),
    /// The first operand has at most this many rows (pixels or tokens) of each image.
    ImageRowsAtMost(usize),
    /// An attention's heads have at most as many channels.
    HeadDimAtMost(usize),
    /// The channels of an attention's heads are a multiple of this many.
    HeadDimMultipleOf(usize),
    /// An attention's heads have as many channels.
    HeadDim(usize),
    /// This operand, learned or not, is read by GEMMs only, so that a device may have stored it in bf16.
    GemmInput(usize),
    /// The same, or the operand is absent.
    GemmInputOrAbsent(usize),
    /// This operand is learned or absent: no launch writes it, so that a launch may read it before the one before it is over.
    Learned(usize),
    /// This operand is a weight that is stored as int8.
    Int8(usize),
    /// No other row of the op with this fit is estimated to take less time, see `registry/cuda/fastest.rs`.
    Fastest,
}

impl Fit {
    /// Whether the row could serve nodes that do not meet this, only slower.
    pub fn is_preference(&self) -> bool {
        matches!(self, Fit::Fastest | Fit::ResultsAtLeast(_) | Fit::ImageRowsAtMost(_))
    }

    /// Whether a node of `plan` fits a row `kernel` that asks for this, on a device of so many SMs.
    pub(super) fn met(&self, kernel: &Kernel, node: &Node, plan: &Plan, sms: usize) -> bool {
        let first = node.inputs.first().copied().flatten().map(|x| x.shape());
        match *self {
            Fit::KernelSizeAtMost(i, max) => {
                matches!(node.inputs[i], Some(Source::Weight(_, shape)) if shape.w.max(shape.c) <= max)
            }
            Fit::KernelSize(i, taps) => {
                matches!(node.inputs[i], Some(Source::Weight(_, shape)) if (shape.w, shape.c) == (taps, taps))
            }
            Fit::Matrix(i, rows, columns) => {
                matches!(node.inputs[i], Some(Source::Weight(_, shape)) if shape == Shape::matrix(rows, columns))
            }
            Fit::Constant(i, value) => node.op.constants()[i] == value,
            Fit::ChannelsAtMost(max) => first.is_some_and(|x| x.c <= max),
            Fit::ChannelsMultipleOf(of) => {
                first.is_some_and(|x| x.c.is_multiple_of(of)) && node.output.shape.c.is_multiple_of(of)
            }
            Fit::OperandMultipleOf(i, of) => node.inputs[i].is_some_and(|operand| operand.shape().c.is_multiple_of(of)),
            Fit::ResultsAtLeast(min) => node.output.shape.elements() >= min,
            Fit::RowsAtMost(max) => first.is_some_and(|x| x.rows() <= max),
            Fit::ImageRowsAtMost(max) => first.is_some_and(|x| x.h * x.w <= max),
            Fit::HeadDimAtMost(max) => matches!(&node.op, Op::Attention(attention) if attention.head_dim <= max),
            Fit::HeadDimMultipleOf(of) => matches!(&node.op, Op::Attention(a) if a.head_dim.is_multiple_of(of)),
            Fit::HeadDim(dim) => matches!(&node.op, Op::Attention(attention) if attention.head_dim == dim),
            Fit::GemmInput(i) => match node.inputs[i] {
                Some(Source::Slot(slot)) => plan.slots[slot.id()].element == Element::GemmInput,
                Some(Source::Weight(w, _)) => plan.gemm_only[w],
                None => false,
            },
            Fit::GemmInputOrAbsent(i) => node.inputs[i].is_none() || Fit::GemmInput(i).met(kernel, node, plan, sms),
            Fit::Learned(i) => !matches!(node.inputs[i], Some(Source::Slot(_))),
            Fit::Int8(i) => matches!(node.inputs[i], Some(Source::Weight(w, _)) if plan.weights[w].is_int8()),
            Fit::Fastest => cuda::is_fastest(kernel, node, sms),
        }
    }
}
