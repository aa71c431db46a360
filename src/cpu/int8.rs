//! What a linear layer with int8 weights does before and after its GEMM: rounds each row of the input to int8, and
//! turns sums of integers into f32.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::Epilogue;
use super::rows::Rows;
use super::scratch::{Scratch, lines};
use super::tile::Packing;
use super::{Verified, per_isa};
use crate::tensor::int8::{factor, inverse, largest, rounded};
use crate::tensor::{Elements, Weight};

/// Values that are read at a time.
const READ: usize = 512;

/// The input of a linear layer, rounded.
pub(super) struct Rounded<'a> {
    values: &'a [i8],
    k: usize,
    factors: &'a [f32],
    sums: &'a [i32],
    weight_factors: &'a [f32],
}

/// f32 of scratch that [`Rounded::new`] takes.
pub(super) fn rounded_scratch(m: usize, n: usize, k: usize) -> usize {
    lines((m * k).div_ceil(4)) + 2 * lines(m) + lines(n)
}

impl<'a> Rounded<'a> {
    /// Rounds `x [m, k]`, each row by a factor of its own, for a product with `weight [n, k]`.
    pub(super) fn new<R: Rows>(
        cpu: Verified,
        x: &R,
        [m, n, k]: [usize; 3],
        weight: &Weight,
        scratch: &mut Scratch<'a>,
    ) -> Self {
        let values = &mut bytemuck::cast_slice_mut::<f32, i8>(scratch.take((m * k).div_ceil(4)))[..m * k];
        let (factors, sums) = (scratch.take(m), bytemuck::cast_slice_mut::<f32, i32>(scratch.take(m)));
        let rows = values.par_chunks_mut(k).zip(factors.par_iter_mut().zip(sums.par_iter_mut()));
        rows.enumerate().for_each(|(row, (to, (factor, sum)))| (*factor, *sum) = round_row(cpu, x, row, to));
        let weight_factors = scratch.take(n);
        let mut rest = &mut *weight_factors;
        for part in weight.parts() {
            let Some(Elements::F32(scales)) = part.scales().map(|scales| scales.elements()) else {
                unreachable!("the row serves weights of integers only")
            };
            let (head, tail) = rest.split_at_mut(scales.len());
            head.copy_from_slice(scales);
            rest = tail;
        }
        Self { values, k, factors, sums, weight_factors }
    }
}

impl Rows for Rounded<'_> {
    fn read(&self, _: usize, _: usize, _: &mut [f32]) {
        unreachable!("it is packed as integers")
    }

    #[inline(always)]
    fn int8(&self, row: usize, k: usize, len: usize) -> &[i8] {
        &self.values[row * self.k + k..][..len]
    }
}

/// Takes sums of integers, and passes them on as numbers.
pub(super) struct Restored<'a, E> {
    pub(super) rounded: &'a Rounded<'a>,
    pub(super) then: &'a E,
}

impl<E: Epilogue> Epilogue for Restored<'_, E> {
    fn store(&self, cpu: Verified, rows: Range<usize>, cols: Range<usize>, values: &mut [f32]) {
        restore(cpu, self.rounded, rows.clone(), cols.clone(), values);
        self.then.store(cpu, rows, cols, values);
    }
}

per_isa! {
    /// Turns a tile of i32, in the bits of `values`, into the numbers that they stand for.
    fn restore(cpu, rounded: &Rounded<'_>, rows: Range<usize>, cols: Range<usize>, values: &mut [f32]) {
        let weight_factors = &rounded.weight_factors[cols];
        for (row, y) in rows.zip(values.chunks_exact_mut(cpu.cols())) {
            // With VNNI, weights were multiplied plus 128.
            let more = if cpu.packing() == Packing::Int8 { 128 * rounded.sums[row] } else { 0 };
            let factor = rounded.factors[row];
            for (y, weight_factor) in y.iter_mut().zip(weight_factors) {
                *y = (y.to_bits() as i32 - more) as f32 * (factor * weight_factor);
            }
        }
    }
}

per_isa! {
    /// Rounds row `row` of `x`, and returns its factor and the sum of its integers.
    fn round_row[R: Rows](cpu, x: &R, row: usize, to: &mut [i8]) -> (f32, i32) {
        let mut buffer = [0.0; READ];
        let bits = (0..to.len()).step_by(READ).fold(0, |bits, at| {
            let values = &mut buffer[..READ.min(to.len() - at)];
            x.read(row, at, values);
            bits.max(largest(values))
        });
        let (factor, mut sum) = (factor(bits), 0);
        for (i, to) in to.chunks_mut(READ).enumerate() {
            let values = &mut buffer[..to.len()];
            x.read(row, i * READ, values);
            for (to, &value) in to.iter_mut().zip(&*values) {
                *to = rounded(value, inverse(factor));
                sum += i32::from(*to);
            }
        }
        (factor, sum)
    }
}
