//! Hands out a kernel's scratch memory, and a shared output, piece by piece.
#![allow(unsafe_code, reason = "tasks write disjoint ranges of one output")]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// f32 per cache line. Pieces are whole lines, so that vector loads do not straddle two.
pub(super) const LINE: usize = 16;

/// `len` rounded up to whole cache lines.
pub(super) const fn lines(len: usize) -> usize {
    len.next_multiple_of(LINE)
}

/// Cuts aligned pieces off the front of a slice.
pub(super) struct Scratch<'a>(&'a mut [f32]);

impl<'a> Scratch<'a> {
    /// Uses `memory`; up to a line of it is lost to alignment.
    pub(super) fn new(memory: &'a mut [f32]) -> Self {
        let skip = memory.as_ptr().align_offset(64).min(memory.len());
        Self(&mut memory[skip..])
    }

    /// The next `len` values, at the start of a line. Their contents are left over.
    ///
    /// # Panics
    /// If the caller's scratch is smaller than the kernel's `*_scratch` said.
    pub(super) fn take(&mut self, len: usize) -> &'a mut [f32] {
        let memory = std::mem::take(&mut self.0);
        assert!(memory.len() >= len, "scratch is {} f32 short", len - memory.len());
        let (piece, rest) = memory.split_at_mut(lines(len).min(memory.len()));
        self.0 = rest;
        &mut piece[..len]
    }

    /// Pieces of `len` values for [`run_tasks`], as many as there is memory for
    /// and threads to use them, and their number.
    ///
    /// # Panics
    /// If there is not memory for one; see [`Scratch::take`].
    pub(super) fn pieces(self, len: usize) -> (&'a mut [f32], usize) {
        let count = (self.0.len() / lines(len)).min(rayon::current_num_threads());
        assert!(count > 0, "scratch is {} f32 short", lines(len) - self.0.len());
        (&mut self.0[..count * lines(len)], count)
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a mut [f32] {
        self.0
    }
}

/// Runs `task(i, piece)` for `i` in `0..tasks`, on as many threads as `memory`
/// has pieces of `len`. Which thread and piece a task gets is left to chance,
/// so a task must not care what its piece holds.
pub(super) fn run_tasks(memory: &mut [f32], len: usize, tasks: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let next = AtomicUsize::new(0);
    memory.par_chunks_mut(lines(len)).for_each(|piece| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                break;
            }
            task(i, piece);
        }
    });
}

/// An output that several tasks write at once, each its own ranges.
pub(super) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Shared` only hands out ranges, and `Shared::range` requires them to be disjoint.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above; f32 has no tie to a thread.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Shares `memory` until the result is dropped.
    pub(super) fn new(memory: &'a mut [f32]) -> Self {
        Self { start: memory.as_mut_ptr(), len: memory.len(), owner: PhantomData }
    }

    /// Values `at..at + len`.
    ///
    /// # Safety
    /// While the result lives, no other range that overlaps it is asked for.
    #[allow(clippy::mut_from_ref, reason = "ranges are disjoint, which the caller vouches for")]
    pub(super) unsafe fn range(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.len, "range is within the output");
        // SAFETY: within the memory borrowed by `new`, and not aliased, by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
