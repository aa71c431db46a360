//! The product of a linear layer with few rows, `y[i, j] = Σ_k a[i, k]·b[j, k]`, by [dot products](super::dot).
//!
//! Such a layer takes as long as its weight takes to come from memory. [`gemm`](super::gemm) would pack each value of the
//! weight for less arithmetic than packing costs, in tiles that are mostly padding. Here the rows of `a` become words once, and
//! every row of `b` is read once and used where it is.

use std::ops::Range;

use rayon::prelude::*;

use super::dot::{PADDING, WEIGHT_ROWS, dots};
use super::gemm::{Epilogue, TASKS_PER_THREAD};
use super::pack::pack_row;
use super::rows::{Rows, WeightRows, widen};
use super::scratch::{LINE, Scratch, lines, run_tasks};
use super::tile::MAX_COLS;
use super::{Isa, Verified};
use crate::tensor::Elements;

/// f32 of scratch that one task needs: results, and rows of a weight if they are widened.
fn task_scratch(m: usize, k: usize) -> usize {
    lines(m * MAX_COLS) + lines(WEIGHT_ROWS * k)
}

/// f32 of scratch that [`few`] needs to keep `threads` threads busy.
pub(super) fn few_scratch(m: usize, k: usize, threads: usize) -> usize {
    LINE + lines(m * k.next_multiple_of(PADDING)) + threads * task_scratch(m, k)
}

/// Computes `y [m, n] = a·bᵀ` for `a [m, k]` and `b [n, k]`, and passes all rows of as many columns as a tile has to
/// `epilogue`.
pub(super) fn few<A: Rows, E: Epilogue>(
    cpu: Verified,
    [m, n, k]: [usize; 3],
    a: &A,
    b: &WeightRows<'_>,
    epilogue: &E,
    scratch: &mut [f32],
) {
    let mut scratch = Scratch::new(scratch);
    let stride = cpu.depth(k).next_multiple_of(PADDING);
    let words = scratch.take(m * stride);
    words.par_chunks_mut(stride).enumerate().for_each(|(row, to)| pack_row(cpu, a, row, k, to));
    let words = &*words;

    let (memory, threads) = scratch.per_thread(task_scratch(m, k));
    let tiles = n.div_ceil(cpu.cols());
    // Tasks are as long as they can be for the load to be balanced: the weight is prefetched past the end of each in vain.
    let tasks = tiles.min(threads * TASKS_PER_THREAD);
    run_tasks(memory, task_scratch(m, k), tasks, |task, memory| {
        let (values, widened) = memory.split_at_mut(lines(m * MAX_COLS));
        for tile in task * tiles / tasks..(task + 1) * tiles / tasks {
            let cols = tile * cpu.cols()..n.min((tile + 1) * cpu.cols());
            let values = &mut values[..m * cpu.cols()];
            products(cpu, words, stride, b, cols.clone(), values, &mut widened[..WEIGHT_ROWS * k]);
            epilogue.store(cpu, 0..m, cols, values);
        }
    });
}

/// Products of all rows of `words` with rows `cols` of `b`, into `values [m, columns of a tile]`. Int8 weights that are not to
/// be multiplied as integers are widened in `widened`, so that results are those of the same weights in f32.
fn products(
    cpu: Verified,
    words: &[f32],
    stride: usize,
    b: &WeightRows<'_>,
    cols: Range<usize>,
    values: &mut [f32],
    widened: &mut [f32],
) {
    let m = words.len() / stride;
    // As few blocks of rows as registers allow, of equal height.
    let height = m.div_ceil(m.div_ceil(cpu.dots()));
    let mut col = cols.start;
    while col < cols.end {
        let (weight, count) = b.together::<WEIGHT_ROWS>(col);
        let count = count.min(cols.end - col);
        let rows = widened.chunks_exact_mut(widened.len() / WEIGHT_ROWS);
        let weight = match weight[0] {
            Elements::I8(_) if !Isa::INT8.contains(&cpu.isa()) => {
                rows.zip(weight).for_each(|(to, row)| widen(row, to));
                std::array::from_fn(|i| {
                    Elements::F32(&widened[i * widened.len() / WEIGHT_ROWS..][..widened.len() / WEIGHT_ROWS])
                })
            }
            _ => weight,
        };
        let blocks = words.chunks(height * stride).zip(values.chunks_mut(height * cpu.cols()));
        for (x, to) in blocks {
            let to = to.chunks_exact_mut(cpu.cols()).map(|row| &mut row[col - cols.start..][..count]);
            macro_rules! store {
                ($rows:literal) => {
                    to.zip(dots::<$rows>(cpu, x, stride, weight))
                        .for_each(|(to, sums)| to.copy_from_slice(&sums[..count]))
                };
            }
            match x.len() / stride {
                1 => store!(1),
                2 => store!(2),
                3 => store!(3),
                4 => store!(4),
                5 => store!(5),
                _ => store!(6),
            }
        }
        col += count;
    }
}
