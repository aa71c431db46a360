//! Element-wise ops over whole activations, and loops over one row that other kernels use.

use rayon::prelude::*;

use super::math::fma;
use super::{Isa, per_isa};

/// Values per task: 64 KiB, so that a task's data fits in L2.
const CHUNK: usize = 1 << 14;

/// `out = x + y`
pub fn add(isa: Isa, x: &[f32], y: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len());
    let cpu = isa.verify();
    let xs = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK));
    out.par_chunks_mut(CHUNK).zip(xs).for_each(|(out, (x, y))| sum(cpu, x, y, out));
}

/// `out += x`
pub fn add_in_place(isa: Isa, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let cpu = isa.verify();
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| add_to(cpu, x, out));
}

/// Dimensions of an activation: `[n, h, w, c]`.
pub type Extent = [usize; 4];

/// Rearranges the patches of `x [n, h, w, c]` into channels, `out [n, h / patch, w / patch, c·patch²]`. A patch is
/// stored channel by channel, and row by row within a channel.
pub fn pixel_unshuffle(x: &[f32], [n, h, w, c]: Extent, patch: usize, out: &mut [f32]) {
    let [rows, columns] = [h / patch, w / patch];
    let area = patch * patch;
    assert!(x.len() == n * h * w * c && out.len() == n * rows * columns * c * area);
    out.par_chunks_mut(columns * c * area).enumerate().for_each(|(line, out)| {
        let first = (line / rows * h + line % rows * patch) * w;
        for (column, out) in out.chunks_exact_mut(c * area).enumerate() {
            for tap in 0..area {
                let pixel = &x[(first + tap / patch * w + column * patch + tap % patch) * c..][..c];
                out[tap..].iter_mut().step_by(area).zip(pixel).for_each(|(out, x)| *out = *x);
            }
        }
    });
}

/// Bilinear resampling of `x [n, h, w, c]` to `out [n, h2, w2, c]` with aligned corners.
pub fn resample(isa: Isa, x: &[f32], [n, h, w, c]: Extent, [h2, w2]: [usize; 2], out: &mut [f32]) {
    assert!(x.len() == n * h * w * c && out.len() == n * h2 * w2 * c);
    let cpu = isa.verify();
    // For output pixel `i` of `to`: the two neighbouring input pixels, and the weight of the second.
    let source = |i: usize, from: usize, to: usize| {
        let at = if to > 1 { (i * (from - 1)) as f32 / (to - 1) as f32 } else { 0.0 };
        let low = (at as usize).min(from - 1);
        (low, (low + 1).min(from - 1), at - low as f32)
    };
    out.par_chunks_mut(w2 * c).enumerate().for_each(|(row, out)| {
        let (image, y) = (row / h2, row % h2);
        let (top, bottom, v) = source(y, h, h2);
        for (x2, out) in out.chunks_exact_mut(c).enumerate() {
            let (left, right, u) = source(x2, w, w2);
            let pixel = |y: usize, i: usize| &x[((image * h + y) * w + i) * c..][..c];
            let corners = [pixel(top, left), pixel(top, right), pixel(bottom, left), pixel(bottom, right)];
            let weights = [(1.0 - u) * (1.0 - v), u * (1.0 - v), (1.0 - u) * v, u * v];
            blend(cpu, corners, weights, out);
        }
    });
}

per_isa! {
    /// `out = Σ weights[i]·corners[i]`
    fn blend(cpu, corners: [&[f32]; 4], weights: [f32; 4], out: &mut [f32]) {
        let [a, b, c, d] = corners.map(|corner| &corner[..out.len()]);
        for (i, out) in out.iter_mut().enumerate() {
            let top = fma::<FMA>(weights[0], a[i], weights[1] * b[i]);
            let bottom = fma::<FMA>(weights[2], c[i], weights[3] * d[i]);
            *out = top + bottom;
        }
    }
}

per_isa! {
    /// `out = x + y`
    pub(super) fn sum(cpu, x: &[f32], y: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(x.iter().zip(y)).for_each(|(out, (x, y))| *out = x + y);
    }
}

per_isa! {
    /// `y += x`
    pub(super) fn add_to(cpu, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}

per_isa! {
    /// `y = y·a + b`
    pub(super) fn scale_shift_by(cpu, a: &[f32], b: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = fma::<FMA>(*y, *a, *b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::*;

    fn check(tolerance: f64, run: impl Fn(&mut [f32]) + Sync, before: &[f32], expected: impl Fn(usize) -> f64) {
        let expected: Vec<f64> = (0..before.len()).map(expected).collect();
        let out = on_threads(|_| {
            let mut out = before.to_vec();
            run(&mut out);
            out
        });
        assert_close(&out, &expected, tolerance, "element-wise");
    }

    #[test]
    fn sums() {
        let len = 2 * 700 * 33;
        let (x, y) = (random(len, 1), random(len, 2));
        let wide = |x: f32| f64::from(x);
        for isa in available() {
            check(1e-6, |out| add(isa, &x, &y, out), &vec![f32::NAN; len], |i| wide(x[i]) + wide(y[i]));
            check(1e-6, |out| add_in_place(isa, &x, out), &y, |i| wide(x[i]) + wide(y[i]));
        }
    }

    #[test]
    fn bilinear() {
        for ([n, h, w, c], [h2, w2]) in
            [([2, 4, 5, 19], [7, 9]), ([1, 1, 1, 3], [4, 5]), ([1, 7, 6, 33], [3, 1]), ([1, 12, 12, 16], [64, 64])]
        {
            let x = random(n * h * w * c, 1);
            let value = |at: usize| {
                let (i, x2, y2, image) = (at % c, at / c % w2, at / c / w2 % h2, at / c / w2 / h2);
                let place = |i: usize, from: usize, to: usize| (i * (from - 1)) as f64 / (to.max(2) - 1) as f64;
                let (v, u) = (place(y2, h, h2), place(x2, w, w2));
                let tent = |d: f64| (1.0 - d.abs()).max(0.0);
                let mut sum = 0.0;
                for y in 0..h {
                    for j in 0..w {
                        sum +=
                            tent(v - y as f64) * tent(u - j as f64) * f64::from(x[((image * h + y) * w + j) * c + i]);
                    }
                }
                sum
            };
            for isa in available() {
                let nan = vec![f32::NAN; n * h2 * w2 * c];
                // The tolerance covers the rounding of the source coordinates to f32.
                check(4e-6, |out| resample(isa, &x, [n, h, w, c], [h2, w2], out), &nan, value);
            }
        }
    }
}
