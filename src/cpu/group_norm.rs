//! `group_norm`: `y = act((x − mean) / √(var + eps)·weight + bias)`, with statistics
//! over all pixels and the channels of a group.

use rayon::prelude::*;

use super::math::{fma, gelu, swish};
use super::rows::widen_all;
use super::scratch::{LINE, Scratch, lines};
use super::{Isa, per_isa};
use crate::ops::Function;
use crate::tensor::Weight;

/// Pixels that one task sums. It is a constant, so that the order of summation does not depend
/// on the number of threads.
const PIXELS: usize = 64;

/// Operands of [`group_norm`].
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// `[images, pixels, c]`
    pub x: &'a [f32],
    /// Pixels of one image.
    pub pixels: usize,
    /// Number of groups, a divisor of `c`.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// `[c]`
    pub weight: &'a Weight,
    /// `[c]`
    pub bias: &'a Weight,
    /// Applied last.
    pub function: Function,
}

/// f32 of scratch that [`group_norm`] needs.
pub fn group_norm_scratch(pixels: usize, c: usize) -> usize {
    LINE + 4 * lines(c) + pixels.div_ceil(PIXELS) * c
}

/// Computes `out`, which has the size of `x`.
///
/// Numerics: f32 in two passes, first the mean and then the variance about it.
pub fn group_norm(isa: Isa, op: &GroupNorm<'_>, out: &mut [f32], scratch: &mut [f32]) {
    let cpu = isa.verify();
    let c = op.weight.shape().elements();
    assert!(op.x.len() == out.len() && c.is_multiple_of(op.groups));
    let mut scratch = Scratch::new(scratch);
    let [weight, bias, mean, scale] = [(); 4].map(|()| scratch.take(c));
    widen_all(op.weight, weight);
    widen_all(op.bias, bias);
    let sums = scratch.take(op.pixels.div_ceil(PIXELS) * c);
    let (width, count) = (c / op.groups, (op.pixels * c / op.groups) as f64);
    let image = op.pixels * c;
    for (x, out) in op.x.chunks_exact(image).zip(out.chunks_exact_mut(image)) {
        // Sums each channel over every chunk of pixels, then adds up each group and writes the group's mean to all
        // of its channels.
        let mut group_means = |centre: &[f32], squared: bool, to: &mut [f32]| {
            let chunks = sums.par_chunks_mut(c).zip(x.par_chunks(PIXELS * c));
            chunks.for_each(|(sums, x)| moments(cpu, x, centre, squared, sums));
            for (group, to) in to.chunks_exact_mut(width).enumerate() {
                let rows = sums.chunks_exact(c).flat_map(|row| &row[group * width..][..width]);
                to.fill((rows.map(|&sum| f64::from(sum)).sum::<f64>() / count) as f32);
            }
        };
        mean.fill(0.0);
        group_means(&*scale, false, mean);
        group_means(&*mean, true, scale);
        scale.iter_mut().zip(&*weight).for_each(|(s, weight)| *s = weight / (*s + op.eps).sqrt());
        let (mean, scale, bias) = (&*mean, &*scale, &*bias);
        let chunks = out.par_chunks_mut(PIXELS * c).zip(x.par_chunks(PIXELS * c));
        chunks.for_each(|(out, x)| apply(cpu, x, mean, scale, bias, op.function, out));
    }
}

per_isa! {
    /// `sums [c] = Σ x` over the rows of `x [_, c]`, or with `squared` `Σ (x − centre)²`.
    fn moments(cpu, x: &[f32], centre: &[f32], squared: bool, sums: &mut [f32]) {
        sums.fill(0.0);
        for row in x.chunks_exact(sums.len()) {
            if squared {
                for ((sum, x), centre) in sums.iter_mut().zip(row).zip(centre) {
                    *sum = fma::<FMA>(x - centre, x - centre, *sum);
                }
            } else {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
    }
}

per_isa! {
    /// `out = act((x − mean)·scale + bias)`, row by row.
    fn apply(
        cpu,
        x: &[f32],
        mean: &[f32],
        scale: &[f32],
        bias: &[f32],
        function: Function,
        out: &mut [f32],
    ) {
        let c = mean.len();
        for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for i in 0..c {
                out[i] = fma::<FMA>(x[i] - mean[i], scale[i], bias[i]);
            }
            match function {
                Function::Identity => {}
                Function::GeluErf => out.iter_mut().for_each(|y| *y = gelu::<FMA>(*y)),
                Function::QuickGelu => out.iter_mut().for_each(|y| *y = swish::<FMA>(*y, 1.702)),
                Function::Silu => out.iter_mut().for_each(|y| *y = swish::<FMA>(*y, 1.0)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::*;

    #[test]
    fn the_same_on_any_number_of_threads() {
        let (x, weight, bias) = (random(2 * 150 * 12, 1), weight(&[12], Dtype::Bf16, 2), weight(&[12], Dtype::F32, 3));
        for isa in available() {
            // `on_threads` compares the results of one thread and of two.
            on_threads(|_| {
                let mut out = vec![f32::NAN; x.len()];
                let mut scratch = vec![f32::NAN; group_norm_scratch(150, 12)];
                let (weight, bias, function) = (&weight, &bias, Function::Silu);
                let op = GroupNorm { x: &x, pixels: 150, groups: 3, eps: 1e-5, weight, bias, function };
                group_norm(isa, &op, &mut out, &mut scratch);
                out
            });
        }
    }
}
