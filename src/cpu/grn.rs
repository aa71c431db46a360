//! `grn_scale`: the per-channel scale of global response normalisation (GRN).

use rayon::prelude::*;

use super::math::fma;
use super::rows::widen_all;
use super::scratch::{LINE, Scratch, lines};
use super::{Isa, per_isa};
use crate::tensor::Weight;

/// Pixels whose squares one task sums. It is a constant, so that the order of summation
/// does not depend on the number of threads.
const PIXELS: usize = 64;

/// f32 of scratch that [`grn_scale`] needs.
pub fn grn_scale_scratch(images: usize, pixels: usize, c: usize) -> usize {
    LINE + lines(c) + images * pixels.div_ceil(PIXELS) * c
}

/// `scale [images, c] = 1 + gamma·N`, `N = G / (mean_c G + 1e-6)`,
/// `G = √Σ x²` over the pixels of `x [images, pixels, c]`.
///
/// GRN with its residual is then `x·scale + beta`, which [`linear`](super::linear::linear)
/// applies as it packs its input.
/// Source: ConvNeXt V2, <https://arxiv.org/abs/2301.00808>.
pub fn grn_scale(isa: Isa, x: &[f32], gamma: &Weight, pixels: usize, scale: &mut [f32], scratch: &mut [f32]) {
    let cpu = isa.verify();
    let c = gamma.shape().elements();
    let images = scale.len() / c;
    assert!(x.len() == images * pixels * c && scale.len() == images * c);
    let mut scratch = Scratch::new(scratch);
    let weights = scratch.take(c);
    widen_all(gamma, weights);
    let chunks = pixels.div_ceil(PIXELS);
    let sums = scratch.take(images * chunks * c);
    sums.par_chunks_mut(c).enumerate().for_each(|(i, sums)| {
        let (image, first) = (i / chunks, i % chunks * PIXELS);
        let rows = PIXELS.min(pixels - first);
        squares(cpu, &x[(image * pixels + first) * c..][..rows * c], sums);
    });
    for (scale, sums) in scale.chunks_exact_mut(c).zip(sums.chunks_exact(chunks * c)) {
        scale.fill(0.0);
        for sums in sums.chunks_exact(c) {
            scale.iter_mut().zip(sums).for_each(|(scale, sum)| *scale += sum);
        }
        scale.iter_mut().for_each(|g| *g = g.sqrt());
        let mean = scale.iter().map(|&g| f64::from(g)).sum::<f64>() / c as f64;
        let inverse = (1.0 / (mean + 1e-6)) as f32;
        scale.iter_mut().zip(&*weights).for_each(|(g, gamma)| *g = 1.0 + gamma * *g * inverse);
    }
}

per_isa! {
    /// `sums [c] = Σ x²` over the rows of `x [_, c]`, for as many channels at a time as fit in registers.
    fn squares(cpu, x: &[f32], sums: &mut [f32]) {
        const LANES: usize = 32;
        let c = sums.len();
        let (blocks, rest) = sums.as_chunks_mut::<LANES>();
        let first_left = blocks.len() * LANES;
        for (block, sums) in blocks.iter_mut().enumerate() {
            let mut total = [0.0; LANES];
            for row in x.chunks_exact(c) {
                let x: &[f32; LANES] = row[block * LANES..].first_chunk().expect("a whole block");
                for i in 0..LANES {
                    total[i] = fma::<FMA>(x[i], x[i], total[i]);
                }
            }
            *sums = total;
        }
        rest.fill(0.0);
        for row in x.chunks_exact(c) {
            rest.iter_mut().zip(&row[first_left..]).for_each(|(sum, x)| *sum = fma::<FMA>(*x, *x, *sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::*;

    #[test]
    fn matches_f64() {
        for (images, pixels, c) in [(1, 1, 1), (2, 130, 35), (2, 64, 64), (1, 577, 7)] {
            let (x, gamma) = (random(images * pixels * c, 1), weight(&[1, 1, 1, c], Dtype::Bf16, 2));
            let weights = gamma.to_f32();
            let mut expected = Vec::new();
            for x in x.chunks(pixels * c) {
                let sum = |i: usize| x.iter().skip(i).step_by(c).map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                let norms: Vec<f64> = (0..c).map(sum).collect();
                let mean = norms.iter().sum::<f64>() / c as f64;
                expected
                    .extend(norms.iter().zip(&weights).map(|(g, &gamma)| 1.0 + f64::from(gamma) * g / (mean + 1e-6)));
            }
            for isa in available() {
                let out = on_threads(|_| {
                    let mut scale = vec![f32::NAN; images * c];
                    let mut scratch = vec![f32::NAN; grn_scale_scratch(images, pixels, c)];
                    grn_scale(isa, &x, &gamma, pixels, &mut scale, &mut scratch);
                    scale
                });
                assert_close(&out, &expected, 1e-6, &format!("{isa:?} {images} {pixels} {c}"));
            }
        }
    }
}
