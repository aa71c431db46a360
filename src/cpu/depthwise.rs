//! Depthwise convolutions, each fused with the op after it: `depthwise_norm`
//! (zero padding, then LayerNorm) and `depthwise_residual` (replicated edges,
//! then `x + g·y`).
//!
//! Channels are contiguous, so a tap is an element-wise product of a pixel's channels
//! and the tap's weights. The weights are transposed from `[c, taps]` to `[taps, c]` first.

use rayon::prelude::*;

use super::elementwise::Extent;
use super::math::fma;
use super::norm::normalise_in_place;
use super::rows::widen_all;
use super::scratch::{LINE, Scratch, lines};
use super::{Isa, per_isa};
use crate::tensor::Weight;

/// Taps of the largest supported kernel, 7 × 7.
const MAX_TAPS: usize = 49;

/// f32 of scratch that the functions of this file need for `c` channels and `k` × `k` taps.
pub fn depthwise_scratch(c: usize, k: usize) -> usize {
    LINE + lines(c) + 2 * lines(k * k * c)
}

/// `out = LayerNorm(conv(x) + bias)` for `x [n, h, w, c]` and weight `[c, 1, k, k]`
/// with odd `k`, zero padding `k / 2`, and no affine map.
#[allow(clippy::too_many_arguments, reason = "a kernel's operands are its arguments")]
pub fn depthwise_norm(
    isa: Isa,
    x: &[f32],
    extent: Extent,
    weight: &Weight,
    bias: Option<&Weight>,
    eps: f32,
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let cpu = isa.verify();
    let [n, h, w, c] = extent;
    assert!(x.len() == n * h * w * c && out.len() == x.len());
    let k = weight.dims[3];
    let Taps { taps, bias } = Taps::new(weight, bias, c, scratch);
    out.par_chunks_mut(w * c).enumerate().for_each(|(row, out)| {
        for (column, out) in out.chunks_exact_mut(c).enumerate() {
            let mut inputs: [(&[f32], &[f32]); MAX_TAPS] = [(&[], &[]); MAX_TAPS];
            let mut count = 0;
            for (tap, weights) in taps.chunks_exact(c).enumerate() {
                // Coordinates above or left of the image wrap around to large numbers, which the comparison rejects.
                let y = (row % h + tap / k).wrapping_sub(k / 2);
                let i = (column + tap % k).wrapping_sub(k / 2);
                if y < h && i < w {
                    inputs[count] = (&x[((row / h * h + y) * w + i) * c..][..c], weights);
                    count += 1;
                }
            }
            convolve(cpu, bias, &inputs[..count], None, out);
            normalise_in_place(cpu, out, eps);
        }
    });
}

/// `x += g·(conv(t) + bias)` for `x` and `t [n, h, w, c]` and weight `[c, 1, k, k]`
/// with odd `k`; `t` is padded by replicating its edges.
#[allow(clippy::too_many_arguments, reason = "a kernel's operands are its arguments")]
pub fn depthwise_residual(
    isa: Isa,
    t: &[f32],
    extent: Extent,
    weight: &Weight,
    bias: Option<&Weight>,
    g: f32,
    x: &mut [f32],
    scratch: &mut [f32],
) {
    let cpu = isa.verify();
    let [n, h, w, c] = extent;
    assert!(t.len() == n * h * w * c && x.len() == t.len());
    let k = weight.dims[3];
    let Taps { taps, bias } = Taps::new(weight, bias, c, scratch);
    x.par_chunks_mut(w * c).enumerate().for_each(|(row, x)| {
        for (column, x) in x.chunks_exact_mut(c).enumerate() {
            let mut inputs: [(&[f32], &[f32]); MAX_TAPS] = [(&[], &[]); MAX_TAPS];
            for (tap, (weights, input)) in taps.chunks_exact(c).zip(&mut inputs).enumerate() {
                let y = (row % h + tap / k).saturating_sub(k / 2).min(h - 1);
                let i = (column + tap % k).saturating_sub(k / 2).min(w - 1);
                *input = (&t[((row / h * h + y) * w + i) * c..][..c], weights);
            }
            convolve(cpu, bias, &inputs[..k * k], Some(g), x);
        }
    });
}

/// Weights `[taps, c]` and bias `[c]` in scratch memory.
struct Taps<'a> {
    taps: &'a [f32],
    bias: &'a [f32],
}

impl<'a> Taps<'a> {
    fn new(weight: &Weight, from: Option<&Weight>, c: usize, scratch: &'a mut [f32]) -> Self {
        let count = weight.dims[2] * weight.dims[3];
        assert!(weight.dims[..2] == [c, 1] && count <= MAX_TAPS, "weight [{c}, 1, k, k], k up to 7");
        let mut scratch = Scratch::new(scratch);
        let (bias, taps, stored) = (scratch.take(c), scratch.take(count * c), scratch.take(count * c));
        bias.fill(0.0);
        if let Some(from) = from {
            widen_all(from, bias);
        }
        widen_all(weight, stored);
        for (tap, row) in taps.chunks_exact_mut(c).enumerate() {
            row.iter_mut().zip(stored.iter().skip(tap).step_by(count)).for_each(|(to, from)| *to = *from);
        }
        Self { taps, bias }
    }
}

per_isa! {
    /// `y = bias + Σ input·weights` for one pixel; `out = y`, or `out += g·y`.
    fn convolve(cpu, bias: &[f32], inputs: &[(&[f32], &[f32])], g: Option<f32>, out: &mut [f32]) {
        const LANES: usize = 64;
        let (blocks, rest) = out.as_chunks_mut::<LANES>();
        for (block, out) in blocks.iter_mut().enumerate() {
            let at = block * LANES;
            let mut sum: [f32; LANES] = *bias[at..].first_chunk().expect("a whole block");
            for (x, w) in inputs {
                let x: &[f32; LANES] = x[at..].first_chunk().expect("a whole block");
                let w: &[f32; LANES] = w[at..].first_chunk().expect("a whole block");
                for i in 0..LANES {
                    sum[i] = fma::<FMA>(x[i], w[i], sum[i]);
                }
            }
            for i in 0..LANES {
                out[i] = g.map_or(sum[i], |g| fma::<FMA>(g, sum[i], out[i]));
            }
        }
        let at = blocks.len() * LANES;
        for (i, out) in rest.iter_mut().enumerate() {
            let sum = inputs.iter().fold(bias[at + i], |sum, (x, w)| fma::<FMA>(x[at + i], w[at + i], sum));
            *out = g.map_or(sum, |g| fma::<FMA>(g, sum, *out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::norm::tests::reference as layer_norm;
    use crate::cpu::testing::*;

    /// `conv(x) + bias` in f64.
    fn convolution(
        x: &[f32],
        [n, h, w, c]: Extent,
        weight: &Weight,
        bias: Option<&Weight>,
        replicate: bool,
    ) -> Vec<f64> {
        let (k, weights) = (weight.dims[3], weight.to_f32());
        let bias = bias.map_or(vec![0.0; c], Weight::to_f32);
        let mut out = Vec::new();
        for at in 0..n * h * w * c {
            let (i, column, row, image) = (at % c, at / c % w, at / c / w % h, at / c / w / h);
            let mut sum = f64::from(bias[i]);
            for tap in 0..k * k {
                let y = (row + tap / k) as isize - (k / 2) as isize;
                let j = (column + tap % k) as isize - (k / 2) as isize;
                let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&j);
                if inside || replicate {
                    let (y, j) = (y.clamp(0, h as isize - 1) as usize, j.clamp(0, w as isize - 1) as usize);
                    sum += f64::from(x[((image * h + y) * w + j) * c + i]) * f64::from(weights[i * k * k + tap]);
                }
            }
            out.push(sum);
        }
        out
    }

    #[test]
    fn both_kernels() {
        let sizes = [([2, 5, 4, 70], 3), ([1, 1, 1, 5], 3), ([1, 9, 2, 64], 7), ([2, 3, 6, 129], 5), ([1, 4, 4, 8], 1)];
        for (extent @ [n, h, w, c], k) in sizes {
            let x = random(n * h * w * c, 1);
            let (weight, bias) = (weight(&[c, 1, k, k], Dtype::Bf16, 2), weight(&[c], Dtype::F32, 3));
            for bias in [None, Some(&bias)] {
                let plain = convolution(&x, extent, &weight, bias, false);
                let narrow: Vec<f32> = plain.iter().map(|&y| y as f32).collect();
                // A large eps keeps the normalisation from amplifying the rounding of sums where the variance is small.
                let normal = layer_norm(&narrow, c, 1e-2);
                let replicated = convolution(&x, extent, &weight, bias, true);
                let before = random(x.len(), 4);
                let added: Vec<f64> = replicated.iter().zip(&before).map(|(y, &x)| f64::from(x) + 0.7 * y).collect();
                for isa in available() {
                    let scratch = || vec![f32::NAN; depthwise_scratch(c, k)];
                    let out = on_threads(|_| {
                        let mut out = vec![f32::NAN; x.len()];
                        depthwise_norm(isa, &x, extent, &weight, bias, 1e-2, &mut out, &mut scratch());
                        out
                    });
                    assert_close(&out, &normal, 4e-6, &format!("norm {isa:?} {extent:?} {k}"));
                    let out = on_threads(|_| {
                        let mut out = before.clone();
                        depthwise_residual(isa, &x, extent, &weight, bias, 0.7, &mut out, &mut scratch());
                        out
                    });
                    assert_close(&out, &added, 4e-6, &format!("residual {isa:?} {extent:?} {k}"));
                }
            }
        }
    }
}
