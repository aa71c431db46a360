//! How much work is handed to a device at a time. A display's watchdog waits for two seconds and then takes the device
//! away, or on macOS just ends the work, so one submission is to take a tenth of a second: at first as much as a slow
//! GPU does in that time, then what this one was measured to do.
//!
//! Work is counted in FLOP, and a byte that is moved counts as [`PER_BYTE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ops::Cost;

/// What one submission is to take.
const TARGET: Duration = Duration::from_millis(100);

/// The first submissions. A GPU of 1 TFLOP/s that reaches a tenth of that takes [`TARGET`] for it.
const FIRST: u64 = 10_000_000_000;

/// The least and the most, whatever is measured.
const RANGE: [u64; 2] = [100_000_000, 1_000_000_000_000];

/// FLOP that a GPU could do while it moves a byte.
const PER_BYTE: u64 = 16;

/// Submissions that may wait for the device while the next is recorded: one runs, one is ready.
const AHEAD: usize = 2;

/// The work of a node.
pub(super) fn work(cost: Cost) -> u64 {
    cost.flops.max(PER_BYTE * cost.bytes)
}

/// What a device is given at a time; `I` names a submission.
pub(super) struct Pace<I> {
    budget: u64,
    /// Whether the budget stays as it is.
    fixed: bool,
    /// Submissions that the device may not have finished, with their work, and when it got them.
    pending: VecDeque<(I, u64, Instant)>,
    /// When the one before the first of those was done.
    done: Instant,
}

impl<I: Clone> Pace<I> {
    /// With the usual budget, or always the one that is given.
    pub(super) fn new(fixed: Option<u64>) -> Self {
        let (budget, pending) = (fixed.unwrap_or(FIRST), VecDeque::new());
        Self { budget, fixed: fixed.is_some(), pending, done: Instant::now() }
    }

    /// Work that one submission may have.
    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    /// Notes down a submission that was handed over.
    pub(super) fn submitted(&mut self, id: I, work: u64, now: Instant) {
        self.pending.push_back((id, work, now));
    }

    /// The submission to be waited for before more is recorded, or before everything is done where `all` is waited for.
    pub(super) fn awaited(&self, all: bool) -> Option<I> {
        let most = if all { 0 } else { AHEAD };
        self.pending.front().filter(|_| self.pending.len() > most).map(|(id, ..)| id.clone())
    }

    /// Notes down that the submission which was [awaited](Self::awaited) is done.
    pub(super) fn done(&mut self, now: Instant) {
        let Some((_, work, submitted)) = self.pending.pop_front() else { return };
        self.learn(work, now.saturating_duration_since(submitted.max(self.done)));
        self.done = now;
    }

    /// What could be done in [`TARGET`] at the rate of a submission, but at most twice or half of what was allowed. A small
    /// one that takes less than that says nothing: it may have been waiting most of the time.
    fn learn(&mut self, work: u64, time: Duration) {
        if self.fixed || (time <= TARGET && work < self.budget / 2) {
            return;
        }
        let fits = (work as f64 * TARGET.as_secs_f64() / time.as_secs_f64().max(1e-6)) as u64;
        let [least, most] = RANGE;
        self.budget = fits.clamp(self.budget / 2, self.budget * 2).clamp(least, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device that does `rate` FLOP/s ends up with after full submissions.
    fn settled(rate: f64, count: usize) -> u64 {
        let mut pace = Pace::<()>::new(None);
        for _ in 0..count {
            let work = pace.budget();
            pace.learn(work, Duration::from_secs_f64(work as f64 / rate));
        }
        pace.budget()
    }

    #[test]
    fn a_submission_comes_to_take_a_tenth_of_a_second() {
        assert_eq!(settled(1e11, 0), FIRST);
        for (rate, budget) in [(1e10, 1e9), (1e11, 1e10), (3e12, 3e11), (1e8, 1e8), (1e15, 1e12)] {
            let got = settled(rate, 20) as f64;
            assert!((got / budget - 1.0).abs() < 0.01, "{rate:e}: {got:e}");
        }
        // The first is 10 GFLOP, and no step changes more than twofold.
        assert_eq!(settled(1e15, 1), 2 * FIRST);
        assert_eq!(settled(1e8, 1), FIRST / 2);
    }

    #[test]
    fn a_small_submission_teaches_only_if_it_took_long() {
        let mut pace = Pace::<()>::new(None);
        pace.learn(1000, Duration::from_millis(5));
        assert_eq!(pace.budget(), FIRST);
        pace.learn(FIRST / 4, Duration::from_secs(1));
        assert_eq!(pace.budget(), FIRST / 2);
        let mut fixed = Pace::<()>::new(Some(7));
        fixed.learn(7, Duration::from_secs(1));
        assert_eq!(fixed.budget(), 7);
    }

    #[test]
    fn the_time_of_a_submission_begins_when_the_one_before_it_is_done() {
        let mut pace = Pace::new(None);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for id in 0..3 {
            pace.submitted(id, FIRST, at(0));
        }
        // Two may be pending, so only the first is awaited.
        assert_eq!(pace.awaited(false), Some(0));
        pace.done(at(100));
        assert_eq!((pace.awaited(false), pace.awaited(true), pace.budget()), (None, Some(1), FIRST));
        pace.done(at(250));
        assert_eq!(pace.budget(), FIRST * 2 / 3, "it took 150 ms, not 250");
    }

    #[test]
    fn work_is_bound_by_compute_or_by_memory() {
        assert_eq!(work(Cost { flops: 1000, bytes: 10 }), 1000);
        assert_eq!(work(Cost { flops: 0, bytes: 10 }), 160);
    }
}
