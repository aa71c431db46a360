//! `y[i, j] = Σ_k a[i, k]·b[j, k]`, in blocks that fit the caches.
//!
//! Rows of `a` go in strips. A strip is packed once, by all threads, block
//! after block of the inner dimension, so that a pass over a block reads it from
//! L3 in one run. Then each task takes up to [`CHUNK`] rows of `b` (output columns),
//! packs [`BLOCK`] of the inner dimension at a time into its L2, and sweeps the
//! strip over it. Sums that wait for the next block lie in the task's scratch,
//! tile by tile, so `y` is only written when it is final, by a [`Store`].
//!
//! ```text
//! for strip of a:       pack it                                  (parallel)
//!     for chunk of b:                                            (parallel)
//!         for block of k:    pack b[chunk, block]
//!             for rows of tiles, for columns of tiles:  tile += a·b
//! ```

use std::ops::Range;

use rayon::prelude::*;

use super::Verified;
use super::pack::{Rows, pack};
use super::scratch::{LINE, Scratch, lines, run_tasks};
use super::tile::{MAX_COLS, MAX_ROWS, tile};

/// Rows of `a` in a strip: a multiple of every tile's rows.
const STRIP: usize = 96 * MAX_ROWS;
/// Most rows of `b` per task: a multiple of every tile's columns.
const CHUNK: usize = 4 * MAX_COLS;
/// Values of the inner dimension per pass, an even number.
const BLOCK: usize = 512;
/// Tasks per thread that even out unequal progress.
const TASKS_PER_THREAD: usize = 4;

/// Where results go.
pub(super) trait Store: Sync {
    /// Takes final results `y[rows, cols]`, a tile or part of one: rows of `values` are a tile's width apart.
    /// Each element is stored once.
    fn store(&self, cpu: Verified, rows: Range<usize>, cols: Range<usize>, values: &mut [f32]);
}

/// Scratch one task needs for `m` rows: `b` panels and waiting sums.
fn task_scratch(m: usize) -> usize {
    lines(BLOCK * CHUNK) + lines(m.min(STRIP).next_multiple_of(MAX_ROWS) * CHUNK)
}

/// f32 of scratch that [`gemm`] needs to keep `threads` threads busy. It makes
/// do with less, but not less than for one.
pub(super) fn gemm_scratch(m: usize, k: usize, threads: usize) -> usize {
    LINE + lines(m.min(STRIP).next_multiple_of(MAX_ROWS) * k) + threads * task_scratch(m)
}

/// `store(i, j, Σ_k a[i, k]·b[j, k])` for `a [m, k]` and `b [n, k]`.
pub(super) fn gemm<A: Rows, B: Rows, S: Store>(
    cpu: Verified,
    [m, n, k]: [usize; 3],
    a: &A,
    b: &B,
    store: &S,
    scratch: &mut [f32],
) {
    let mut scratch = Scratch::new(scratch);
    let packed = scratch.take(m.min(STRIP).next_multiple_of(cpu.rows()) * cpu.depth(k));
    let (memory, threads) = scratch.pieces(task_scratch(m));
    // As many for each thread, and as wide as can be: widths differ by a tile's at most.
    let columns = n.div_ceil(cpu.cols());
    let chunks = columns.div_ceil(CHUNK / cpu.cols()).next_multiple_of(threads).min(columns);
    let chunk = |i: usize| i * columns / chunks * cpu.cols();
    // Too few chunks for the threads: also cut the strip's rows.
    let cuts = (threads * TASKS_PER_THREAD).div_ceil(chunks);

    for first in (0..m).step_by(STRIP) {
        let panels = STRIP.min(m - first).div_ceil(cpu.rows());
        let packed = &mut packed[..panels * cpu.rows() * cpu.depth(k)];
        packed.par_chunks_mut(panels * cpu.rows() * cpu.depth(BLOCK)).enumerate().for_each(|(block, packed)| {
            let at = block * BLOCK;
            let len = BLOCK.min(k - at);
            packed.par_chunks_mut(cpu.rows() * cpu.depth(len)).enumerate().for_each(|(i, panel)| {
                let row = first + i * cpu.rows();
                pack(cpu, a, row, m.min(row + cpu.rows()), cpu.rows(), at, len, panel);
            });
        });

        let packed = &*packed;
        let panels_per_task = panels.div_ceil(cuts);
        let cuts = panels.div_ceil(panels_per_task);
        run_tasks(memory, task_scratch(m), chunks * cuts, |task, memory| {
            let (i, cut) = (task / cuts, task % cuts * panels_per_task);
            let (panels, cols) = (cut..panels.min(cut + panels_per_task), chunk(i)..n.min(chunk(i + 1)));
            Task { cpu, first, end: m, packed, panels, cols, k }.run(b, store, memory);
        });
    }
}

/// One task: some panels of a strip of `a`, times rows `cols` of `b`.
struct Task<'a> {
    cpu: Verified,
    /// The strip's first row.
    first: usize,
    /// The end of all rows.
    end: usize,
    /// The strip: blocks of the inner dimension, each of all panels.
    packed: &'a [f32],
    panels: Range<usize>,
    cols: Range<usize>,
    k: usize,
}

impl Task<'_> {
    fn run<B: Rows, S: Store>(&self, b: &B, store: &S, memory: &mut [f32]) {
        let cpu = self.cpu;
        let (width, height) = (cpu.cols(), cpu.rows());
        let (b_panels, sums) = memory.split_at_mut(lines(BLOCK * CHUNK));
        let columns = self.cols.clone().step_by(width);
        let mut blocks = self.packed;
        for k in (0..self.k).step_by(BLOCK) {
            let block = BLOCK.min(self.k - k);
            let depth = cpu.depth(block);
            let b_panels = &mut b_panels[..columns.len() * depth * width];
            for (col, panel) in columns.clone().zip(b_panels.chunks_exact_mut(depth * width)) {
                pack(cpu, b, col, self.cols.end.min(col + width), width, k, block, panel);
            }
            let last = k + block == self.k;
            let (a_panels, rest) = blocks.split_at(self.packed.len() / cpu.depth(self.k) * depth);
            blocks = rest;
            let a_panels = &a_panels[self.panels.start * height * depth..self.panels.end * height * depth];
            let mut sums = sums.chunks_exact_mut(height * width);
            // A panel of b stays in L1 while the strip passes by.
            for (col, b) in columns.clone().zip(b_panels.chunks_exact(depth * width)) {
                for (i, a) in self.panels.clone().zip(a_panels.chunks_exact(height * depth)) {
                    let row = self.first + i * height;
                    let sum = sums.next().expect("task_scratch counted the tiles");
                    tile(cpu, a, b, sum, k > 0);
                    if last {
                        let (rows, cols) = (row..self.end.min(row + height), col..self.cols.end.min(col + width));
                        store.store(cpu, rows, cols, sum);
                    }
                }
            }
        }
    }
}
