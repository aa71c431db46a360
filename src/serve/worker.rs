//! The thread that makes pictures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::Shared;
use super::fault::Fault;
use super::job::{Job, State};
use super::order::Maker;
use crate::error::Error;
use crate::pipeline::Times;

/// Makes one order after the other until the queue is closed and empty.
pub(super) fn work(shared: &Shared, maker: &mut dyn Maker) {
    while let Some(job) = shared.queue.next() {
        let (state, times, fault) = make(shared, maker, &job);
        shared.metrics.job(state, &times);
        if let Some(fault) = &fault {
            shared.metrics.fault(fault.code);
        }
        job.end(state, times, fault);
        shared.queue.done(&job);
    }
}

fn make(shared: &Shared, maker: &mut dyn Maker, job: &Job) -> (State, Times, Option<Fault>) {
    let none = Times::default();
    if job.is_to_stop() {
        return (State::Cancelled, none, None);
    }
    // Nothing here panics on any order; if something did, the other orders would still be answered.
    match catch_unwind(AssertUnwindSafe(|| maker.make(job))) {
        Ok(Ok(times)) => (State::Completed, times, None),
        Ok(Err(Error::Interrupted)) if job.is_late() => {
            (State::Failed, none, Some(Fault::late(job.order.timeout.as_secs_f64())))
        }
        Ok(Err(Error::Interrupted)) => (State::Cancelled, none, None),
        Ok(Err(error)) => {
            if matches!(error, Error::Device { .. }) {
                shared.lost.store(true, Ordering::SeqCst);
            }
            (State::Failed, none, Some(error.into()))
        }
        Err(_) => {
            shared.lost.store(true, Ordering::SeqCst);
            (State::Failed, none, Some(Fault::device_lost()))
        }
    }
}
