//! Pipelines that threads of their own compile while weights are uploaded. A pipeline that is needed before its turn is
//! compiled by the one who needs it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::context::Context;

type Make = Box<dyn FnOnce() -> wgpu::ComputePipeline + Send>;

/// A pipeline that is compiled when it is first used, if not before.
pub(super) struct Pipeline(LazyLock<wgpu::ComputePipeline, Make>);

impl Pipeline {
    pub(super) fn new(make: impl FnOnce() -> wgpu::ComputePipeline + Send + 'static) -> Self {
        Self(LazyLock::new(Box::new(make)))
    }
}

impl Deref for Pipeline {
    type Target = wgpu::ComputePipeline;

    fn deref(&self) -> &wgpu::ComputePipeline {
        &self.0
    }
}

/// Pipelines that nobody has asked for yet, and the threads that compile them.
#[derive(Default)]
pub(super) struct Workers {
    waiting: Arc<Mutex<VecDeque<Arc<Pipeline>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Adds one to those that [`start`](Self::start) compiles.
    pub(super) fn add(&self, pipeline: Arc<Pipeline>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(pipeline);
    }

    /// Compiles what is waiting, here and now.
    pub(super) fn finish(&self) {
        all_of(&self.waiting).for_each(|pipeline| _ = LazyLock::force(&pipeline.0));
    }

    /// Compiles what is waiting, on as many threads as there are cores, and keeps it for other processes. Where no thread
    /// can be had, pipelines are compiled when they are used.
    pub(super) fn start(&self, context: &Arc<Context>) {
        let count = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in threads.len()..cores.min(count) {
            let (waiting, context) = (self.waiting.clone(), context.clone());
            let work = move || {
                all_of(&waiting).for_each(|pipeline| _ = LazyLock::force(&pipeline.0));
                if let Some(cache) = &context.cache {
                    cache.save();
                }
            };
            threads.extend(std::thread::Builder::new().name("pipelines".into()).spawn(work));
        }
    }
}

/// Takes what is waiting, one by one, until nothing is.
fn all_of(waiting: &Mutex<VecDeque<Arc<Pipeline>>>) -> impl Iterator<Item = Arc<Pipeline>> {
    std::iter::from_fn(|| waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front())
}

/// What is still waiting is left; no thread is inside the driver after this.
impl Drop for Workers {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for thread in std::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            drop(thread.join());
        }
    }
}
