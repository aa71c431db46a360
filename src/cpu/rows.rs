//! Operands of products, read by rows: activations and weights, whatever type they are stored in.
#![allow(unsafe_code, reason = "prefetch instructions")]

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::tensor::{Elements, Weight};

/// A matrix that can be read by rows as f32: activations, a weight, or an implicit
/// im2col matrix.
pub(super) trait Rows: Sync {
    /// Writes `row[k..k + dst.len()]` to `dst`.
    fn read(&self, row: usize, k: usize, dst: &mut [f32]);

    /// If the matrix is stored as bf16, copies `row[k..k + len]` to `dst`, two values per element, and returns true.
    #[inline(always)]
    fn read_pairs(&self, _row: usize, _k: usize, _len: usize, _dst: &mut [f32]) -> bool {
        false
    }

    /// The integers of `row[k..k + len]`, of a matrix that is stored as such.
    #[inline(always)]
    fn int8(&self, _row: usize, _k: usize, _len: usize) -> &[i8] {
        unreachable!("this matrix has no integers")
    }

    /// Whether it is the operand whose integers [VNNI](super::tile::Packing::Int8) takes as unsigned.
    const IS_WEIGHT: bool = false;

    /// Prefetches `row[k..k + len]`, clipped to the end of the row.
    #[inline(always)]
    fn prefetch(&self, _row: usize, _k: usize, _len: usize) {}
}

/// A matrix whose rows are slices of f32 in memory.
pub(super) trait RowAt {
    /// Row `row`.
    fn row(&self, row: usize) -> &[f32];
}

/// Rows of `len` values, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

impl Rows for Strided<'_> {
    #[inline(always)]
    fn read(&self, row: usize, k: usize, dst: &mut [f32]) {
        dst.copy_from_slice(&self.values[row * self.stride + k..][..dst.len()]);
    }
}

/// The most parts that a stacked weight may have: Q, K, V and one in reserve.
const PARTS: usize = 4;

/// Rows of a weight. Its parts are looked up once, not for every row.
pub(super) struct WeightRows<'a> {
    parts: [Elements<'a>; PARTS],
    row_len: usize,
}

impl<'a> WeightRows<'a> {
    /// `weight` as `[_, row_len]`.
    pub(super) fn new(weight: &'a Weight, row_len: usize) -> Self {
        assert!(weight.parts().len() <= PARTS, "at most {} stacked parts", PARTS);
        let mut parts = [Elements::F32(&[]); PARTS];
        parts.iter_mut().zip(weight.parts()).for_each(|(to, part)| *to = part.elements());
        Self { parts, row_len }
    }

    /// `N` rows from `row` on that are of one part, and how many they are: where the part ends before that, its last row
    /// stands for those that are missing.
    pub(super) fn together<const N: usize>(&self, row: usize) -> ([Elements<'a>; N], usize) {
        let mut row = row;
        for part in &self.parts {
            let rows = part.len() / self.row_len;
            if row < rows {
                let at = |i: usize| (row + i).min(rows - 1) * self.row_len;
                return (std::array::from_fn(|i| part.slice(at(i)..at(i) + self.row_len)), N.min(rows - row));
            }
            row -= rows;
        }
        panic!("row {row} is past the end of the weight");
    }
}

impl Rows for WeightRows<'_> {
    #[inline(always)]
    fn read(&self, row: usize, k: usize, dst: &mut [f32]) {
        let mut at = row * self.row_len + k;
        for part in &self.parts {
            if at < part.len() {
                return widen(part.slice(at..at + dst.len()), dst);
            }
            at -= part.len();
        }
        panic!("row {row} is past the end of the weight");
    }

    #[inline(always)]
    fn read_pairs(&self, row: usize, k: usize, len: usize, dst: &mut [f32]) -> bool {
        let mut at = row * self.row_len + k;
        for part in &self.parts {
            if at < part.len() {
                let Elements::Bf16(from) = part.slice(at..at + len) else { return false };
                let to: &mut [bf16] = bytemuck::cast_slice_mut(dst);
                to[..len].copy_from_slice(from);
                to[len..].fill(bf16::ZERO);
                return true;
            }
            at -= part.len();
        }
        false
    }

    #[inline(always)]
    fn int8(&self, row: usize, k: usize, len: usize) -> &[i8] {
        let mut at = row * self.row_len + k;
        for part in &self.parts {
            if at < part.len() {
                let Elements::I8(integers) = part else { break };
                return &integers.values[at..at + len];
            }
            at -= part.len();
        }
        unreachable!("the row serves weights of integers only")
    }

    const IS_WEIGHT: bool = true;

    /// Weights are read from memory in runs that are too short for the hardware prefetcher.
    /// Without this, a small GEMM spends half of its time waiting for them.
    #[inline(always)]
    fn prefetch(&self, row: usize, k: usize, len: usize) {
        let (start, end) = (row * self.row_len + k, row * self.row_len + self.row_len.min(k + len));
        let mut first = 0;
        for part in &self.parts {
            if start >= first && end <= first + part.len() && start < end {
                let part = part.slice(start - first..end - first);
                match part {
                    Elements::F32(x) => prefetch(x),
                    Elements::Bf16(x) => prefetch(x),
                    Elements::F16(x) => prefetch(x),
                    Elements::I8(x) => prefetch(x.values),
                }
            }
            first += part.len();
        }
    }
}

/// Prefetches `values` to L1.
#[inline(always)]
pub(super) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch does not access memory in a way that can fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// Converts `from` to f32, as [`Elements::get`] has it.
#[inline(always)]
pub(super) fn widen(from: Elements<'_>, to: &mut [f32]) {
    match from {
        Elements::F32(from) => to.copy_from_slice(from),
        // A bf16 is the upper half of an f32.
        Elements::Bf16(from) => {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = f32::from_bits(u32::from(from.to_bits()) << 16));
        }
        Elements::F16(from) => from.convert_to_f32_slice(to),
        Elements::I8(from) => {
            let mut to = to;
            for (scale, row) in from.rows() {
                let (head, tail) = to.split_at_mut(row.len());
                head.iter_mut().zip(row).for_each(|(to, &from)| *to = f32::from(from) * scale);
                to = tail;
            }
        }
    }
}

/// Converts all elements of a (small) weight to f32.
pub(super) fn widen_all(weight: &Weight, mut to: &mut [f32]) {
    for part in weight.parts() {
        let from = part.elements();
        let (head, tail) = std::mem::take(&mut to).split_at_mut(from.len());
        widen(from, head);
        to = tail;
    }
}
