//! The online softmax of [`attention`](super::attention), one block of keys at a time. A column of
//! scores belongs to one query, so maxima and sums are computed column by column, one query per SIMD lane.

use super::math::{exp2, fma, max};
use super::pack::round_pairs;
use super::tile::MAX_COLS;
use super::{Isa, per_isa};

/// The running state for a tile's width of queries, over the keys processed so far.
pub(super) struct Softmax {
    /// The largest score of each query.
    largest: [f32; MAX_COLS],
    /// The denominator of each query, `Σ e^(s − largest)`.
    pub(super) sum: [f32; MAX_COLS],
}

impl Softmax {
    /// The state before the first key.
    pub(super) fn new() -> Self {
        Self { largest: [f32::NEG_INFINITY; MAX_COLS], sum: [0.0; MAX_COLS] }
    }
}

per_isa! {
    /// Replaces the `scores [keys, width]` of the next block by `e^(s − largest)`, in the layout of a GEMM's right
    /// operand. If any query's maximum grew, returns what each query's accumulators must be multiplied by.
    pub(super) fn exponentiate(
        cpu,
        scores: &mut [f32],
        width: usize,
        softmax: &mut Softmax,
    ) -> Option<[f32; MAX_COLS]> {
        let pairs = cpu.isa() == Isa::Avx512Bf16;
        match width {
            32 => exponentiate_lanes::<FMA, 32>(pairs, scores, softmax),
            16 => exponentiate_lanes::<FMA, 16>(pairs, scores, softmax),
            _ => exponentiate_lanes::<FMA, 8>(pairs, scores, softmax),
        }
    }
}

per_isa! {
    /// `rows[i, j] *= factor[j]`
    pub(super) fn scale_columns(cpu, factor: &[f32], rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(factor.len()) {
            row.iter_mut().zip(factor).for_each(|(x, factor)| *x *= factor);
        }
    }
}

/// [`exponentiate`] for a width that is known at compile time.
#[inline(always)]
fn exponentiate_lanes<const FMA: bool, const LANES: usize>(
    pairs: bool,
    scores: &mut [f32],
    softmax: &mut Softmax,
) -> Option<[f32; MAX_COLS]> {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    let largest: &mut [f32; LANES] = softmax.largest.first_chunk_mut().expect("no tile is wider");
    let sum: &mut [f32; LANES] = softmax.sum.first_chunk_mut().expect("no tile is wider");
    let rows = scores.as_chunks_mut::<LANES>().0;
    let mut now = *largest;
    for row in &*rows {
        for i in 0..LANES {
            now[i] = max(row[i], now[i]);
        }
    }
    let factor = (*largest != now).then(|| {
        let mut factor = [1.0; MAX_COLS];
        for i in 0..LANES {
            factor[i] = exp2::<FMA>((largest[i] - now[i]) * LOG2_E);
            sum[i] *= factor[i];
        }
        factor
    });
    *largest = now;
    let shift = now.map(|largest| -largest * LOG2_E);
    let mut total = *sum;
    let mut exponentiate = |row: &mut [f32; LANES]| {
        for i in 0..LANES {
            row[i] = exp2::<FMA>(fma::<FMA>(row[i], LOG2_E, shift[i]));
            total[i] += row[i];
        }
    };
    if pairs {
        for j in 0..rows.len().div_ceil(2) {
            let (mut low, mut high) = (rows[2 * j], [0.0; LANES]);
            exponentiate(&mut low);
            if let Some(row) = rows.get(2 * j + 1) {
                high = *row;
                exponentiate(&mut high);
            }
            round_pairs(&low, &high, &mut rows[j]);
        }
    } else {
        rows.iter_mut().for_each(exponentiate);
    }
    *sum = total;
    factor
}
