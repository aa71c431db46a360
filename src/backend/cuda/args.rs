//! The one argument of every kernel.

#[cfg(feature = "cuda-emu")]
use crate::backend::operand;
use crate::plan::Node;
use crate::shape::Shape;

/// Most operands that an op takes, and most constants.
const MOST: usize = 8;

/// What a kernel is given; `Args` in `kernels/common.cuh`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Args {
    out: u64,
    operands: [u64; MOST],
    scratch: u64,
    out_shape: [u32; 4],
    shapes: [[u32; 4]; MOST],
    kinds: [u32; MOST],
    constants: [u32; MOST],
    out_kind: u32,
    squares_from: u32,
    counters_from: u32,
    sms: u32,
}

// As in `kernels/common.cuh`.
const _: () = assert!(size_of::<Args>() == 304);

impl Args {
    /// The argument of a node's kernels on a GPU of so many SMs. Addresses are those of the result, of each operand (0 where
    /// absent) and of the memory that passes share; `out_kind` and `kinds` what the result and the operands are.
    pub(super) fn new(
        node: &Node,
        sms: usize,
        (out, out_kind): (u64, u32),
        operands: &[u64],
        scratch: u64,
        kinds: &[u32],
    ) -> Self {
        let extent = |s: Shape| [s.n, s.h, s.w, s.c].map(|v| u32::try_from(v).expect("extents were checked"));
        let mut args = Args {
            out,
            scratch,
            out_kind,
            sms: sms as u32,
            out_shape: extent(node.output.shape),
            ..bytemuck::Zeroable::zeroed()
        };
        for (i, source) in node.inputs.iter().enumerate() {
            args.operands[i] = operands[i];
            args.kinds[i] = kinds[i];
            args.shapes[i] = source.map_or([0; 4], |source| extent(source.shape()));
        }
        let constants = node.op.constants();
        args.constants[..constants.len()].copy_from_slice(&constants);
        args
    }

    /// SMs of the GPU, as the kernel is told.
    #[cfg(feature = "cuda-emu")]
    pub(super) fn sms(&self) -> u32 {
        self.sms
    }

    /// The same, with sums of squares that a layer leaves or a norm finds, from this element of the shared memory on.
    pub(super) fn with_squares(self, squares_from: u32) -> Self {
        Self { squares_from, ..self }
    }

    /// The same, with counters from this element of the shared memory on.
    pub(super) fn with_counters(self, counters_from: u32) -> Self {
        Self { counters_from, ..self }
    }

    /// Address and bytes of the result.
    #[cfg(feature = "cuda-emu")]
    pub(super) fn result(&self) -> std::ops::Range<u64> {
        let element = if self.out_kind == operand::Kind::Bf16 as u32 { 2 } else { 4 };
        self.out..self.out + self.out_shape.iter().map(|&v| u64::from(v)).product::<u64>() * element
    }

    /// Addresses and bytes of the operands, at least: those of f32 take twice as many.
    #[cfg(feature = "cuda-emu")]
    pub(super) fn operands(&self) -> impl Iterator<Item = std::ops::Range<u64>> {
        let range = |(&at, shape): (&u64, &[u32; 4])| {
            let elements: u64 = shape.iter().map(|&v| u64::from(v)).product();
            at..at + 2 * elements
        };
        self.operands.iter().zip(&self.shapes).map(range).filter(|range| range.start > 0)
    }

    /// Address of its counters, if it has any.
    #[cfg(feature = "cuda-emu")]
    pub(super) fn counters(&self) -> Option<u64> {
        (self.counters_from > 0).then_some(self.scratch + 4 * u64::from(self.counters_from))
    }

    /// Address of the memory that passes share.
    #[cfg(feature = "cuda-emu")]
    pub(super) fn scratch(&self) -> u64 {
        self.scratch
    }
}
