//! Orders that wait, the one that is made, and those that have ended, for a while.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::job::{Job, Picture, State};
use super::order::Order;
use crate::pipeline::Times;

/// How long what has ended can still be asked for.
const KEPT: Duration = Duration::from_secs(600);
/// Most bytes of pictures that are kept; beyond, the oldest go first.
const KEPT_BYTES: usize = 256 << 20;
/// How many jobs are remembered that are no longer kept.
const REMEMBERED: usize = 10_000;
/// Longest that a client is told to wait, in seconds.
const LONGEST_WAIT: f64 = 120.0;

/// A queue of bounded length.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    most: usize,
}

struct Inner {
    waiting: VecDeque<Arc<Job>>,
    running: Option<Arc<Job>>,
    jobs: HashMap<String, Arc<Job>>,
    ended: VecDeque<(Instant, Arc<Job>)>,
    /// Names of jobs that are no longer kept.
    gone: VecDeque<String>,
    closed: bool,
    /// Seconds that an order takes, lately.
    service: f64,
    names: RandomState,
    count: u64,
}

/// What is known of a job's name.
pub(super) enum Found {
    Job(Arc<Job>),
    /// It was kept long enough.
    Gone,
    Unknown,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        let inner = Inner {
            waiting: VecDeque::new(),
            running: None,
            jobs: HashMap::new(),
            ended: VecDeque::new(),
            gone: VecDeque::new(),
            closed: false,
            service: 1.0,
            names: RandomState::new(),
            count: 0,
        };
        Self { inner: Mutex::new(inner), wake: Condvar::new(), most }
    }

    /// A panic elsewhere leaves what is behind this lock whole: nothing is half changed in between.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.forget();
        inner
    }

    /// Accepts an order.
    ///
    /// # Errors
    /// 429 if the queue is full, 503 if it is closed.
    pub(super) fn submit(&self, order: Order) -> Result<Arc<Job>, Fault> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Fault::draining());
        }
        if inner.waiting.len() >= self.most {
            let seconds = (inner.service * self.most as f64).clamp(1.0, LONGEST_WAIT);
            return Err(Fault::queue_full(self.most, seconds.ceil() as u64));
        }
        let job = Job::new(inner.name(), order);
        inner.jobs.insert(job.id.clone(), job.clone());
        inner.waiting.push_back(job.clone());
        self.wake.notify_one();
        Ok(job)
    }

    /// The next order, when there is one; `None` when the queue is closed and empty.
    pub(super) fn next(&self) -> Option<Arc<Job>> {
        let mut inner = self.lock();
        loop {
            if let Some(job) = inner.waiting.pop_front() {
                inner.running = Some(job.clone());
                job.begin();
                return Some(job);
            }
            if inner.closed {
                return None;
            }
            inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The order that was made has ended.
    pub(super) fn done(&self, job: &Arc<Job>) {
        let mut inner = self.lock();
        inner.running = None;
        if job.state() == State::Completed {
            inner.service = 0.7 * inner.service + 0.3 * job.seconds();
        }
        inner.keep(job);
    }

    /// Cancels a job. One that waits ends now, one that is made after its step.
    pub(super) fn cancel(&self, job: &Arc<Job>) {
        let mut inner = self.lock();
        job.cancel();
        if let Some(at) = inner.waiting.iter().position(|waiting| waiting.id == job.id) {
            inner.waiting.remove(at);
            job.end(State::Cancelled, Times::default(), None);
            inner.keep(job);
        }
    }

    pub(super) fn find(&self, id: &str) -> Found {
        let inner = self.lock();
        match inner.jobs.get(id) {
            Some(job) => Found::Job(job.clone()),
            None if inner.gone.iter().any(|gone| gone == id) => Found::Gone,
            None => Found::Unknown,
        }
    }

    /// A picture that is kept, by the hash of its file.
    pub(super) fn picture(&self, hash: &str) -> Option<Arc<Picture>> {
        let inner = self.lock();
        inner.jobs.values().find_map(|job| job.now().pictures.into_iter().find(|picture| picture.hash == hash))
    }

    /// The order that is made, and those that wait.
    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        let inner = self.lock();
        inner.running.iter().chain(&inner.waiting).cloned().collect()
    }

    pub(super) fn running(&self) -> Option<Arc<Job>> {
        self.lock().running.clone()
    }

    /// How many are before this one.
    pub(super) fn place(&self, job: &Job) -> usize {
        let inner = self.lock();
        let ahead = inner.waiting.iter().position(|waiting| waiting.id == job.id);
        ahead.map_or(0, |ahead| ahead + usize::from(inner.running.is_some()))
    }

    /// How many wait.
    pub(super) fn depth(&self) -> usize {
        self.lock().waiting.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.waiting.is_empty() && inner.running.is_none()
    }

    /// Accepts nothing from now on. What waits is still made.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }
}

impl Inner {
    /// 128 bits of SipHash under keys from the system's source of randomness.
    fn name(&mut self) -> String {
        self.count += 1;
        let part = |salt: u64| {
            let mut hasher = self.names.build_hasher();
            hasher.write_u64(self.count);
            hasher.write_u64(salt);
            hasher.finish()
        };
        format!("{:016x}{:016x}", part(0), part(1))
    }

    fn keep(&mut self, job: &Arc<Job>) {
        self.ended.push_back((Instant::now(), job.clone()));
    }

    /// Forgets what was kept long enough, or is too much.
    fn forget(&mut self) {
        let mut bytes: usize = self.ended.iter().map(|(_, job)| job.bytes()).sum();
        while let Some((at, job)) = self.ended.front() {
            if at.elapsed() < KEPT && bytes <= KEPT_BYTES {
                break;
            }
            bytes -= job.bytes();
            self.jobs.remove(&job.id);
            self.gone.push_back(job.id.clone());
            self.ended.pop_front();
        }
        while self.gone.len() > REMEMBERED {
            self.gone.pop_front();
        }
    }
}
