//! Pipelines that threads of their own compile while weights are uploaded. A pipeline that is needed before its turn is
//! compiled by the one who needs it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A value that is made when it is first used, if not before.
pub(super) struct Later<T>(LazyLock<T, Box<dyn FnOnce() -> T + Send>>);

/// A pipeline that need not be compiled yet.
pub(super) type Pipeline = Later<wgpu::ComputePipeline>;

impl<T> Later<T> {
    pub(super) fn new(make: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(LazyLock::new(Box::new(make)))
    }
}

impl<T> Deref for Later<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

type Waiting<T> = Arc<Mutex<VecDeque<Arc<Later<T>>>>>;

/// Values that nobody has asked for yet, and the threads that make them.
pub(super) struct Workers<T> {
    waiting: Waiting<T>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<T> Default for Workers<T> {
    fn default() -> Self {
        Self { waiting: Arc::default(), threads: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes what is waiting, one by one, until nothing is.
fn make_all<T>(waiting: &Waiting<T>) {
    let next = || lock(waiting).pop_front();
    while let Some(later) = next() {
        LazyLock::force(&later.0);
    }
}

impl<T: Send + Sync + 'static> Workers<T> {
    /// Adds one to those that [`start`](Self::start) or [`finish`](Self::finish) makes.
    pub(super) fn add(&self, later: Arc<Later<T>>) {
        lock(&self.waiting).push_back(later);
    }

    /// Makes what is waiting, here and now.
    pub(super) fn finish(&self) {
        make_all(&self.waiting);
    }

    /// Makes what is waiting, on as many threads as there are cores; each calls `done` when nothing is left for it. Where no
    /// thread can be had, values are made when they are used.
    pub(super) fn start(&self, done: impl Fn() + Clone + Send + 'static) {
        let count = lock(&self.waiting).len();
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in threads.len()..cores.min(count) {
            let (waiting, done) = (self.waiting.clone(), done.clone());
            let work = move || {
                make_all(&waiting);
                done();
            };
            threads.extend(std::thread::Builder::new().name("pipelines".into()).spawn(work));
        }
    }
}

/// What is still waiting is left; no thread is inside the driver after this.
impl<T> Drop for Workers<T> {
    fn drop(&mut self) {
        lock(&self.waiting).clear();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn each_is_made_once_by_whoever_comes_first() {
        let (workers, made) = (Workers::default(), Arc::new(AtomicUsize::new(0)));
        let all: Vec<_> = (0..100)
            .map(|_| {
                let made = made.clone();
                Arc::new(Later::new(move || made.fetch_add(1, Ordering::Relaxed)))
            })
            .collect();
        all.iter().for_each(|later| workers.add(later.clone()));
        assert_eq!((**all[99], made.load(Ordering::Relaxed)), (0, 1), "nobody else has begun");
        let (sender, done) = mpsc::channel();
        workers.start(move || sender.send(()).unwrap());
        done.recv().unwrap();
        drop(workers);
        assert_eq!(made.load(Ordering::Relaxed), 100);
        let mut numbers: Vec<usize> = all.iter().map(|later| ***later).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..100), "each has one of its own");
    }

    #[test]
    fn what_waits_is_left_where_nobody_needs_it_any_more() {
        let (begun, begins) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let workers = Workers::default();
        let first = Arc::new(Later::new(move || {
            begun.send(()).unwrap();
            gone.recv().is_ok()
        }));
        workers.add(first.clone());
        workers.start(|| {});
        begins.recv().unwrap();
        let second = Arc::new(Later::new(|| panic!("nobody needs it")));
        workers.add(second);
        // The thread is inside `first`; it is let go once the rest has been given up.
        let waiting = workers.waiting.clone();
        let dropping = std::thread::spawn(move || drop(workers));
        while !lock(&waiting).is_empty() {
            std::thread::yield_now();
        }
        go.send(()).unwrap();
        dropping.join().unwrap();
        assert!(**first);
    }
}
