//! `group_norm`: `y = act((x − mean) / √(var + eps)·weight + bias)`, statistics
//! over all pixels and the channels of a group.

use rayon::prelude::*;

use super::math::{fma, gelu, swish};
use super::pack::widen_all;
use super::scratch::{LINE, Scratch, lines};
use super::{Isa, per_isa};
use crate::ops::Function;
use crate::tensor::Weight;

/// Pixels summed by one task. A constant, so that sums do not depend on the
/// number of threads.
const PIXELS: usize = 64;

/// Operands of [`group_norm`].
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// `[images, pixels, c]`
    pub x: &'a [f32],
    /// Pixels of one image.
    pub pixels: usize,
    /// Groups; they divide `c`.
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

/// Computes `out`, as large as `x`. Numerics: f32, mean first, then the variance about it.
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
        // Sums per channel and chunk of pixels, then per group, the same in all its channels.
        let mut of_groups = |centre: &[f32], power: bool, to: &mut [f32]| {
            let chunks = sums.par_chunks_mut(c).zip(x.par_chunks(PIXELS * c));
            chunks.for_each(|(sums, x)| moments(cpu, x, centre, power, sums));
            for (group, to) in to.chunks_exact_mut(width).enumerate() {
                let rows = sums.chunks_exact(c).flat_map(|row| &row[group * width..][..width]);
                to.fill((rows.map(|&sum| f64::from(sum)).sum::<f64>() / count) as f32);
            }
        };
        mean.fill(0.0);
        of_groups(&*scale, false, mean);
        of_groups(&*mean, true, scale);
        scale.iter_mut().zip(&*weight).for_each(|(s, weight)| *s = weight / (*s + op.eps).sqrt());
        let (mean, scale, bias) = (&*mean, &*scale, &*bias);
        let chunks = out.par_chunks_mut(PIXELS * c).zip(x.par_chunks(PIXELS * c));
        chunks.for_each(|(out, x)| apply(cpu, x, mean, scale, bias, op.function, out));
    }
}

per_isa! {
    /// `sums [c] = Σ x`, or with `squared` `Σ (x − centre)²`, over the rows of `x [_, c]`.
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
            // `on_threads` runs it on one and on two, and compares.
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
