//! `feed_forward`: Stage A's `x += g5·(W₂·GELU(W₀·(LN(x)·(1 + g3) + g4) + b₀) + b₂)`.
//!
//! The hidden layer is four times as wide as `x`. It is never stored as a whole: a
//! task keeps it only for the rows that it is working on. As in
//! [`attention`](super::attention), both GEMMs are computed transposed: the weights are the left
//! operands, which are packed once, and the first GEMM leaves the hidden values in
//! the layout of the second GEMM's right operand.
#![allow(unsafe_code, reason = "tasks write disjoint ranges of one output")]

use rayon::prelude::*;

use super::math::{fma, gelu};
use super::norm::normalise;
use super::pack::{pack, pair_rows};
use super::rows::{Strided, WeightRows, widen_all};
use super::scratch::{LINE, Scratch, Shared, lines, run_tasks};
use super::tile::{MAX_COLS, MAX_ROWS, tile};
use super::{Isa, Verified, per_isa};
use crate::tensor::Weight;

/// Operands of [`feed_forward`].
#[derive(Debug, Clone, Copy)]
pub struct FeedForward<'a> {
    /// `W₀ [hidden, c]`
    pub up: &'a Weight,
    /// `b₀ [hidden]`
    pub up_bias: &'a Weight,
    /// `W₂ [c, hidden]`
    pub down: &'a Weight,
    /// `b₂ [c]`
    pub down_bias: &'a Weight,
    /// `[g3, g4, g5]`
    pub gammas: [f32; 3],
    /// Added to the variance.
    pub eps: f32,
}

/// Groups of rows of `x` per task; a group is as many rows as a tile has columns. A panel of packed weights
/// is read from L3 once per task and used for all its groups.
const GROUPS: usize = 2;

/// f32 of scratch that one task needs: normalised rows, a tile of results, and for each group its packed rows and
/// hidden values.
fn task_scratch(c: usize, hidden: usize) -> usize {
    let (c_up, hidden_up) = (c.next_multiple_of(MAX_ROWS), hidden.next_multiple_of(MAX_ROWS));
    lines(MAX_COLS * c)
        + GROUPS * (lines(MAX_COLS * c) + lines(MAX_COLS * hidden_up))
        + lines(MAX_ROWS * MAX_COLS)
        + lines(c_up)
}

/// f32 of scratch that [`feed_forward`] needs to keep `threads` threads busy.
pub fn feed_forward_scratch(c: usize, hidden: usize, threads: usize) -> usize {
    let (c_up, hidden_up) = (c.next_multiple_of(MAX_ROWS), hidden.next_multiple_of(MAX_ROWS));
    LINE + lines(c_up)
        + lines(hidden_up)
        + lines(hidden_up * c)
        + lines(c_up * hidden)
        + threads * task_scratch(c, hidden)
}

/// Updates `x [rows, c]`.
///
/// Numerics: as [`linear`](super::linear::linear). With [`Isa::Avx512Bf16`], the hidden values
/// are rounded to bf16, too.
pub fn feed_forward(isa: Isa, op: &FeedForward<'_>, x: &mut [f32], scratch: &mut [f32]) {
    let cpu = isa.verify();
    let (hidden, c) = (op.up.dims[0], op.up.dims[1]);
    assert!(op.down.dims[..2] == [c, hidden] && x.len().is_multiple_of(c));
    let mut scratch = Scratch::new(scratch);
    let up = PackedWeight::new(cpu, op.up, op.up_bias, &mut scratch);
    let down = PackedWeight::new(cpu, op.down, op.down_bias, &mut scratch);
    let (memory, _) = scratch.per_thread(task_scratch(c, hidden));
    let rows = cpu.cols() * GROUPS;
    let tasks = (x.len() / c).div_ceil(rows);
    let (len, x) = (x.len(), Shared::new(x));
    run_tasks(memory, task_scratch(c, hidden), tasks, |task, memory| {
        let at = task * rows * c;
        // SAFETY: each task updates its own rows.
        let x = unsafe { x.range(at, (rows * c).min(len - at)) };
        update(cpu, op, &up, &down, x, memory);
    });
}

/// A weight `[n, k]`, packed as the left operand of a GEMM, with its bias.
struct PackedWeight<'a> {
    /// All panels, each `[depth(k), rows of a tile]`.
    panels: &'a [f32],
    /// f32 per panel.
    panel: usize,
    bias: &'a [f32],
}

impl<'a> PackedWeight<'a> {
    fn new(cpu: Verified, weight: &Weight, from: &Weight, scratch: &mut Scratch<'a>) -> Self {
        let (n, k) = (weight.dims[0], weight.dims[1]);
        let padded = n.next_multiple_of(cpu.rows());
        let (bias, panel) = (scratch.take(padded), cpu.rows() * cpu.depth(k));
        bias.fill(0.0);
        widen_all(from, &mut bias[..n]);
        let panels = scratch.take(padded / cpu.rows() * panel);
        let rows = WeightRows::new(weight, k);
        panels.par_chunks_mut(panel).enumerate().for_each(|(i, panel)| {
            let first = i * cpu.rows();
            pack(cpu, &rows, first, n.min(first + cpu.rows()), cpu.rows(), 0, k, panel);
        });
        Self { panels, panel, bias }
    }

    /// The panels, each with the biases of its rows.
    fn panels(&self, cpu: Verified) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.panels.chunks_exact(self.panel).zip(self.bias.chunks_exact(cpu.rows()))
    }
}

/// One task: updates at most [`GROUPS`] groups of rows.
fn update(
    cpu: Verified,
    op: &FeedForward<'_>,
    up: &PackedWeight<'_>,
    down: &PackedWeight<'_>,
    x: &mut [f32],
    memory: &mut [f32],
) {
    let (hidden, c) = (op.up.dims[0], op.up.dims[1]);
    let (height, width) = (cpu.rows(), cpu.cols());
    let [g3, g4, g5] = op.gammas;
    let mut scratch = Scratch::new(memory);
    let normal = scratch.take(width * c);
    let result = scratch.take(height * width);
    let mut packed = [(); GROUPS].map(|()| scratch.take(width * cpu.depth(c)));
    let mut middle = [(); GROUPS].map(|()| scratch.take(width * hidden.next_multiple_of(height)));

    let groups = x.len().div_ceil(width * c);
    for (x, packed) in x.chunks(width * c).zip(&mut packed) {
        for (x, normal) in x.chunks_exact(c).zip(normal.chunks_exact_mut(c)) {
            normalise(cpu, x, op.eps, normal);
            scale_shift(cpu, 1.0 + g3, g4, normal);
        }
        pack(cpu, &Strided { values: normal, stride: c }, 0, x.len() / c, width, 0, c, packed);
    }
    for (i, (panel, bias)) in up.panels(cpu).enumerate() {
        for (packed, middle) in packed.iter().zip(&mut middle).take(groups) {
            let middle = &mut middle[i * height * width..][..height * width];
            tile(cpu, panel, packed, middle, false);
            bias_gelu(cpu, bias, middle);
        }
    }
    for middle in middle.iter_mut().take(groups) {
        pair_rows(cpu, &mut middle[..hidden * width], width);
    }
    for (i, (panel, bias)) in down.panels(cpu).enumerate() {
        let first = i * height;
        for (x, middle) in x.chunks_mut(width * c).zip(&middle) {
            tile(cpu, panel, &middle[..cpu.depth(hidden) * width], result, false);
            for (row, x) in x.chunks_exact_mut(c).enumerate() {
                let column = result.iter().skip(row).step_by(width).zip(bias);
                x[first..].iter_mut().zip(column).for_each(|(x, (y, bias))| *x += g5 * (y + bias));
            }
        }
    }
}

per_isa! {
    /// `x = x·a + b`
    fn scale_shift(cpu, a: f32, b: f32, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = fma::<FMA>(*x, a, b));
    }
}

per_isa! {
    /// `x[i, j] = GELU(x[i, j] + bias[i])`
    fn bias_gelu(cpu, bias: &[f32], x: &mut [f32]) {
        let width = x.len() / bias.len();
        for (row, bias) in x.chunks_exact_mut(width).zip(bias) {
            row.iter_mut().for_each(|x| *x = gelu::<FMA>(*x + bias));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::norm::tests::reference as layer_norm;
    use crate::cpu::testing::*;

    #[test]
    fn matches_f64() {
        for (rows, c, hidden) in [(1, 3, 5), (130, 16, 64), (33, 37, 129), (64, 48, 192)] {
            let before = random(rows * c, 1);
            let (up, up_bias) = (weight(&[hidden, c], Dtype::Bf16, 2), weight(&[hidden], Dtype::F32, 3));
            let (down, down_bias) = (weight(&[c, hidden], Dtype::F16, 4), weight(&[c], Dtype::F32, 5));
            let gammas @ [g3, g4, g5] = [0.3, -0.1, 0.8];
            let op = FeedForward { up: &up, up_bias: &up_bias, down: &down, down_bias: &down_bias, gammas, eps: 1e-6 };
            for isa in available() {
                let round = rounding(isa);
                let linear = |x: &[f64], w: &Weight, b: &Weight| -> Vec<f64> {
                    let (n, k) = (w.dims[0], w.dims[1]);
                    let (w, b) = (w.to_f32(), b.to_f32());
                    let dot = |row: &[f64], o: usize| -> f64 {
                        (0..k).map(|i| f64::from(round(row[i] as f32)) * f64::from(round(w[o * k + i]))).sum()
                    };
                    x.chunks(k)
                        .flat_map(|row| (0..n).map(move |o| (row, o)))
                        .map(|(row, o)| dot(row, o) + f64::from(b[o]))
                        .collect()
                };
                let normal: Vec<f64> =
                    layer_norm(&before, c, 1e-6).iter().map(|y| y * f64::from(1.0 + g3) + f64::from(g4)).collect();
                let middle: Vec<f64> = linear(&normal, &up, &up_bias)
                    .iter()
                    .map(|y| 0.5 * y * (1.0 + libm::erf(y / 2f64.sqrt())))
                    .collect();
                let result = linear(&middle, &down, &down_bias);
                let expected: Vec<f64> =
                    result.iter().zip(&before).map(|(y, &x)| f64::from(x) + f64::from(g5) * y).collect();
                let out = on_threads(|threads| {
                    let mut x = before.clone();
                    feed_forward(isa, &op, &mut x, &mut vec![f32::NAN; feed_forward_scratch(c, hidden, threads)]);
                    x
                });
                // In bf16, a hidden value may be rounded to a neighbour of the value that the reference rounds to.
                let tolerance = if isa == Isa::Avx512Bf16 { 1e-2 } else { 2e-5 };
                assert_close(&out, &expected, tolerance, &format!("{isa:?} {rows} {c} {hidden}"));
            }
        }
    }
}
