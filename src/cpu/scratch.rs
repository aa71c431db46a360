//! Divides a kernel's scratch memory into buffers, and lets several tasks write one output.
#![allow(unsafe_code, reason = "tasks write disjoint ranges of one output")]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// f32 per cache line. Buffers start at a cache line, so that aligned vector loads do not straddle two lines.
pub(super) const LINE: usize = 16;

/// `len` rounded up to whole cache lines.
pub(super) const fn lines(len: usize) -> usize {
    len.next_multiple_of(LINE)
}

/// Scratch memory from whose front aligned buffers are taken.
pub(super) struct Scratch<'a>(&'a mut [f32]);

impl<'a> Scratch<'a> {
    /// Uses `memory`, of which up to one cache line is lost to alignment.
    pub(super) fn new(memory: &'a mut [f32]) -> Self {
        let skip = memory.as_ptr().align_offset(64).min(memory.len());
        Self(&mut memory[skip..])
    }

    /// The next `len` values, starting at a cache line. They are not initialised: they hold whatever was written last.
    ///
    /// # Panics
    /// If the caller's scratch is smaller than the kernel's `*_scratch` function requires.
    pub(super) fn take(&mut self, len: usize) -> &'a mut [f32] {
        let memory = std::mem::take(&mut self.0);
        assert!(memory.len() >= len, "scratch is {} f32 short", len - memory.len());
        let (buffer, rest) = memory.split_at_mut(lines(len).min(memory.len()));
        self.0 = rest;
        &mut buffer[..len]
    }

    /// One buffer of `len` values per thread, for [`run_tasks`], and their number. If the memory does not suffice for
    /// all threads, there are fewer buffers.
    ///
    /// # Panics
    /// If there is not enough memory for one buffer; see [`Scratch::take`].
    pub(super) fn per_thread(self, len: usize) -> (&'a mut [f32], usize) {
        let count = (self.0.len() / lines(len)).min(rayon::current_num_threads());
        assert!(count > 0, "scratch is {} f32 short", lines(len) - self.0.len());
        (&mut self.0[..count * lines(len)], count)
    }

    /// All memory that has not been taken.
    pub(super) fn rest(self) -> &'a mut [f32] {
        self.0
    }
}

/// Runs `task(i, buffer)` for `i` in `0..tasks`, on as many threads as `memory`
/// has buffers of `len` values. Threads take the next task from a counter, so a task cannot
/// know which buffer it gets and must not depend on the buffer's contents.
pub(super) fn run_tasks(memory: &mut [f32], len: usize, tasks: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let next = AtomicUsize::new(0);
    memory.par_chunks_mut(lines(len)).for_each(|buffer| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                break;
            }
            task(i, buffer);
        }
    });
}

/// An output that several tasks write concurrently, each in its own ranges.
pub(super) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Shared` only gives access to ranges, and `Shared::range` requires them to be disjoint.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above, and f32 may be sent between threads.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Shares `memory` until the result is dropped.
    pub(super) fn new(memory: &'a mut [f32]) -> Self {
        Self { start: memory.as_mut_ptr(), len: memory.len(), owner: PhantomData }
    }

    /// Values `at..at + len`.
    ///
    /// # Safety
    /// While the returned slice is in use, no overlapping range may be requested.
    #[allow(clippy::mut_from_ref, reason = "the caller guarantees that ranges are disjoint")]
    pub(super) unsafe fn range(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.len, "range is within the output");
        // SAFETY: the range lies within the memory that `new` borrowed, and by this function's contract it is not aliased.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
