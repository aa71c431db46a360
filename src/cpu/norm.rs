//! `layer_norm`: `y = (x − mean) / √(var + eps)` over the channels.

use rayon::prelude::*;

use super::elementwise::scale_shift_by;
use super::math::fma;
use super::rows::widen_all;
use super::scratch::{LINE, Scratch, lines};
use super::{Isa, Verified, per_isa};
use crate::tensor::Weight;

/// The affine map after the normalisation.
#[derive(Debug, Clone, Copy, Default)]
pub enum Affine<'a> {
    /// Nothing.
    #[default]
    None,
    /// `y·weight + bias`, both `[c]`.
    Weights(&'a Weight, &'a Weight),
    /// `y·(1 + g0) + g1`
    Scalars(f32, f32),
}

/// f32 of scratch that [`layer_norm`] needs.
pub fn layer_norm_scratch(c: usize) -> usize {
    LINE + 2 * lines(c)
}

/// `out = (x − mean) / √(var + eps)` over each row of `x [rows, c]`, then `affine`.
/// Without `x`, normalises `out` in place.
///
/// Numerics: f32 in two passes, first the mean and then the variance about it, because
/// the one-pass formula loses the variance to cancellation if the mean is large. Each
/// sum has 32 accumulators.
pub fn layer_norm(
    isa: Isa,
    x: Option<&[f32]>,
    c: usize,
    eps: f32,
    affine: Affine<'_>,
    out: &mut [f32],
    scratch: &mut [f32],
) {
    assert!(x.is_none_or(|x| x.len() == out.len()));
    let cpu = isa.verify();
    let mut scratch = Scratch::new(scratch);
    let (scale, shift) = (scratch.take(c), scratch.take(c));
    match affine {
        Affine::None => (),
        Affine::Weights(weight, bias) => {
            widen_all(weight, scale);
            widen_all(bias, shift);
        }
        Affine::Scalars(g0, g1) => {
            scale.fill(1.0 + g0);
            shift.fill(g1);
        }
    }
    let (scale, shift) = (&*scale, &*shift);
    out.par_chunks_mut(c * ROWS).enumerate().for_each(|(block, rows)| {
        for (row, out) in rows.chunks_exact_mut(c).enumerate() {
            match x {
                Some(x) => normalise(cpu, &x[(block * ROWS + row) * c..][..c], eps, out),
                None => normalise_in_place(cpu, out, eps),
            }
            if !matches!(affine, Affine::None) {
                scale_shift_by(cpu, scale, shift, out);
            }
        }
    });
}

/// Rows per task.
const ROWS: usize = 16;
/// Accumulators per sum.
const LANES: usize = 32;

per_isa! {
    /// `Σ x`, or with a mean `Σ (x − mean)²`, in [`LANES`] accumulators.
    fn moment(cpu, x: &[f32], mean: Option<f32>) -> f32 {
        let mut sums = [0.0; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        let centre = mean.unwrap_or(0.0);
        if mean.is_some() {
            for x in chunks {
                for i in 0..LANES {
                    let d = x[i] - centre;
                    sums[i] = fma::<FMA>(d, d, sums[i]);
                }
            }
            rest.iter().zip(&mut sums).for_each(|(x, sum)| *sum += (x - centre) * (x - centre));
        } else {
            for x in chunks {
                for i in 0..LANES {
                    sums[i] += x[i];
                }
            }
            rest.iter().zip(&mut sums).for_each(|(x, sum)| *sum += x);
        }
        sums.iter().sum()
    }
}

per_isa! {
    /// `out = (x − mean)·inverse`
    fn standardise(cpu, x: &[f32], mean: f32, inverse: f32, out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = (x - mean) * inverse);
    }
}

/// Normalises one row.
pub(super) fn normalise(cpu: Verified, x: &[f32], eps: f32, out: &mut [f32]) {
    let (mean, inverse) = statistics(cpu, x, eps);
    standardise(cpu, x, mean, inverse, out);
}

/// Normalises one row in place.
pub(super) fn normalise_in_place(cpu: Verified, x: &mut [f32], eps: f32) {
    let (mean, inverse) = statistics(cpu, x, eps);
    standardise_in_place(cpu, mean, inverse, x);
}

per_isa! {
    /// `x = (x − mean)·inverse`
    fn standardise_in_place(cpu, mean: f32, inverse: f32, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = (*x - mean) * inverse);
    }
}

/// Mean and `1/√(var + eps)` of one row.
fn statistics(cpu: Verified, x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = moment(cpu, x, None) / count;
    (mean, 1.0 / (moment(cpu, x, Some(mean)) / count + eps).sqrt())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cpu::testing::*;

    pub(in crate::cpu) fn reference(x: &[f32], c: usize, eps: f32) -> Vec<f64> {
        let mut out = Vec::new();
        for row in x.chunks(c) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / c as f64;
            let var = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / c as f64;
            out.extend(row.iter().map(|&x| (f64::from(x) - mean) / (var + f64::from(eps)).sqrt()));
        }
        out
    }

    #[test]
    fn every_affine_and_size() {
        for (rows, c, offset) in [(1, 1, 0.0), (3, 7, 0.0), (37, 32, 0.0), (18, 45, 1.0), (5, 2048, 30.0)] {
            let x: Vec<f32> = random(rows * c, 1).iter().map(|x| x + offset).collect();
            let (weight, bias) = (weight(&[c], Dtype::Bf16, 2), weight(&[c], Dtype::F16, 3));
            let plain = reference(&x, c, 1e-6);
            let (w, b) = (weight.to_f32(), bias.to_f32());
            for isa in available() {
                for affine in [Affine::None, Affine::Weights(&weight, &bias), Affine::Scalars(0.3, -0.2)] {
                    let expected: Vec<f64> = plain
                        .iter()
                        .enumerate()
                        .map(|(i, y)| match affine {
                            Affine::None => *y,
                            Affine::Weights(..) => y * f64::from(w[i % c]) + f64::from(b[i % c]),
                            Affine::Scalars(g0, g1) => y * (1.0 + f64::from(g0)) + f64::from(g1),
                        })
                        .collect();
                    let out = on_threads(|_| {
                        let mut out = vec![f32::NAN; x.len()];
                        layer_norm(
                            isa,
                            Some(&x),
                            c,
                            1e-6,
                            affine,
                            &mut out,
                            &mut vec![f32::NAN; layer_norm_scratch(c)],
                        );
                        out
                    });
                    // The mean has a relative error of 6e-8, and the result divides by a standard deviation of 0.58.
                    let tolerance = 1e-6 * f64::from(1.0 + offset);
                    assert_close(&out, &expected, tolerance, &format!("{isa:?} {rows} {c} {affine:?}"));
                }
            }
        }
    }
}
