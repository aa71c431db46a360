//! GEMM, `y[i, j] = Σ_k a[i, k]·b[j, k]`, with packed operands and blocking for the caches in the manner of BLIS.
//!
//! The rows of `a` are divided into strips. All threads together pack a strip once,
//! block by block along K, so that a later pass over one block reads contiguous memory
//! from L3. Then each task takes up to [`CHUNK`] rows of `b` (columns of `y`), packs
//! [`BLOCK`] values of K at a time into its L2, and multiplies the whole strip by them.
//! Between K blocks the accumulators are kept in the task's scratch, tile by tile, so
//! that every element of `y` is written once, by an [`Epilogue`]; where integers are multiplied, it gets i32 in the bits of
//! f32.
//!
//! ```text
//! for each strip of a:    pack it                                (parallel)
//!     for each chunk of b:                                       (parallel)
//!         for each block of K:    pack b[chunk, block]
//!             for each row and column of tiles:    tile += a·b
//! ```

use std::ops::Range;

use rayon::prelude::*;

use super::Verified;
use super::pack::pack;
use super::rows::Rows;
use super::scratch::{LINE, Scratch, lines, run_tasks};
use super::tile::{MAX_COLS, MAX_ROWS, Packing, tile};

/// Rows of `a` in a strip: a multiple of every tile's rows.
const STRIP: usize = 96 * MAX_ROWS;
/// Most rows of `b` per task: a multiple of every tile's columns.
const CHUNK: usize = 4 * MAX_COLS;
/// Words of a panel per block of K, at most.
const BLOCK: usize = 512;
/// Tasks per thread: more than one, so that a thread that is delayed takes fewer of them.
pub(super) const TASKS_PER_THREAD: usize = 4;

/// What happens to results before and as they are stored.
pub(super) trait Epilogue: Sync {
    /// Stores the final results `y[rows, cols]`, a whole tile or one clipped at the edge of `y`. Row `i` of `values`
    /// starts at `i` times the width of a tile. Each element of `y` is stored exactly once.
    fn store(&self, cpu: Verified, rows: Range<usize>, cols: Range<usize>, values: &mut [f32]);
}

/// Values of K per block. Values of f32, and pairs that were such, are blocked alike, whatever that leaves free of L2.
fn block(cpu: Verified) -> usize {
    match cpu.packing() {
        Packing::F32 | Packing::Bf16 => BLOCK,
        integers => BLOCK * integers.values(),
    }
}

/// f32 of scratch that one task needs for `m` rows: packed panels of `b`, and accumulators.
fn task_scratch(m: usize) -> usize {
    lines(BLOCK * CHUNK) + lines(m.min(STRIP).next_multiple_of(MAX_ROWS) * CHUNK)
}

/// f32 of scratch that [`gemm`] needs to keep `threads` threads busy, where a row of `a` takes at most `depth` words.
/// With less, it runs on fewer threads; the minimum is what one thread needs.
pub(super) fn gemm_scratch(m: usize, depth: usize, threads: usize) -> usize {
    LINE + lines(m.min(STRIP).next_multiple_of(MAX_ROWS) * depth) + threads * task_scratch(m)
}

/// Computes `y [m, n] = a·bᵀ` for `a [m, k]` and `b [n, k]`, and passes its tiles to `epilogue`.
pub(super) fn gemm<A: Rows, B: Rows, E: Epilogue>(
    cpu: Verified,
    [m, n, k]: [usize; 3],
    a: &A,
    b: &B,
    epilogue: &E,
    scratch: &mut [f32],
) {
    let mut scratch = Scratch::new(scratch);
    let packed = scratch.take(m.min(STRIP).next_multiple_of(cpu.rows()) * cpu.depth(k));
    let (memory, threads) = scratch.per_thread(task_scratch(m));
    // Chunks are as wide as possible, but equally many for each thread; their widths differ by at most one tile.
    let columns = n.div_ceil(cpu.cols());
    let chunks = columns.div_ceil(CHUNK / cpu.cols()).next_multiple_of(threads).min(columns);
    let chunk = |i: usize| i * columns / chunks * cpu.cols();
    // If there are too few chunks to balance the load, divide the strip's rows among several tasks, too.
    let tasks_per_chunk = (threads * TASKS_PER_THREAD).div_ceil(chunks);

    for first in (0..m).step_by(STRIP) {
        let panels = STRIP.min(m - first).div_ceil(cpu.rows());
        let packed = &mut packed[..panels * cpu.rows() * cpu.depth(k)];
        packed.par_chunks_mut(panels * cpu.rows() * cpu.depth(block(cpu))).enumerate().for_each(|(i, packed)| {
            let at = i * block(cpu);
            let len = block(cpu).min(k - at);
            packed.par_chunks_mut(cpu.rows() * cpu.depth(len)).enumerate().for_each(|(i, panel)| {
                let row = first + i * cpu.rows();
                pack(cpu, a, row, m.min(row + cpu.rows()), cpu.rows(), at, len, panel);
            });
        });

        let packed = &*packed;
        let panels_per_task = panels.div_ceil(tasks_per_chunk);
        let tasks_per_chunk = panels.div_ceil(panels_per_task);
        run_tasks(memory, task_scratch(m), chunks * tasks_per_chunk, |task, memory| {
            let (i, start) = (task / tasks_per_chunk, task % tasks_per_chunk * panels_per_task);
            let (panels, cols) = (start..panels.min(start + panels_per_task), chunk(i)..n.min(chunk(i + 1)));
            Task { cpu, first, end: m, packed, panels, cols, k }.run(b, epilogue, memory);
        });
    }
}

/// One task: multiplies a range of panels of a strip of `a` by rows `cols` of `b`.
struct Task<'a> {
    cpu: Verified,
    /// Index of the strip's first row in `a`.
    first: usize,
    /// Number of rows of `a`.
    end: usize,
    /// The packed strip: for each block of K, all panels.
    packed: &'a [f32],
    panels: Range<usize>,
    cols: Range<usize>,
    k: usize,
}

impl Task<'_> {
    fn run<B: Rows, E: Epilogue>(&self, b: &B, epilogue: &E, memory: &mut [f32]) {
        let cpu = self.cpu;
        let (width, height) = (cpu.cols(), cpu.rows());
        let (b_panels, accumulators) = memory.split_at_mut(lines(BLOCK * CHUNK));
        let columns = self.cols.clone().step_by(width);
        let mut blocks = self.packed;
        for k in (0..self.k).step_by(block(cpu)) {
            let block = block(cpu).min(self.k - k);
            let depth = cpu.depth(block);
            let b_panels = &mut b_panels[..columns.len() * depth * width];
            for (col, panel) in columns.clone().zip(b_panels.chunks_exact_mut(depth * width)) {
                pack(cpu, b, col, self.cols.end.min(col + width), width, k, block, panel);
            }
            let last = k + block == self.k;
            let (a_panels, rest) = blocks.split_at(self.packed.len() / cpu.depth(self.k) * depth);
            blocks = rest;
            let a_panels = &a_panels[self.panels.start * height * depth..self.panels.end * height * depth];
            let mut accumulators = accumulators.chunks_exact_mut(height * width);
            // The panel of b stays in L1 for the whole inner loop over the strip's panels.
            for (col, b) in columns.clone().zip(b_panels.chunks_exact(depth * width)) {
                for (i, a) in self.panels.clone().zip(a_panels.chunks_exact(height * depth)) {
                    let row = self.first + i * height;
                    let c = accumulators.next().expect("task_scratch counted the tiles");
                    tile(cpu, a, b, c, k > 0);
                    if last {
                        let (rows, cols) = (row..self.end.min(row + height), col..self.cols.end.min(col + width));
                        epilogue.store(cpu, rows, cols, c);
                    }
                }
            }
        }
    }
}
