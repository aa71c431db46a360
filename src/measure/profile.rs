//! Profiling: a backend that wraps another one and records how long each call takes.
//!
//! The pipeline needs no support for this: it runs on a [`Profiled`] backend as on any other.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::roofline::{Ceilings, Limit};
use crate::backend::{Backend, Device, Program, Residency};
use crate::error::Result;
use crate::ops::Cost;
use crate::plan::{Plan, Slot};
use crate::registry::{self, Kernel};

/// A stage or a backend call, timed on the host.
#[derive(Debug, Clone)]
pub struct Span {
    /// The name of the stage or call.
    pub name: String,
    /// Start time, relative to the start of profiling.
    pub start: Duration,
    /// Duration.
    pub time: Duration,
}

/// One execution of a node on the device.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Index into [`Events::plans`].
    pub plan: usize,
    /// Index into the plan's nodes.
    pub node: usize,
    /// Start time, relative to the start of profiling. For an asynchronous device this is an estimate: it
    /// assumes that the device starts when the host does and does not idle between nodes.
    pub start: Duration,
    /// Time on the device.
    pub time: Duration,
}

/// Everything that was recorded.
#[derive(Debug)]
pub struct Events {
    origin: Instant,
    /// Plans that were compiled.
    pub plans: Vec<Arc<Plan>>,
    /// Stages, in order.
    pub stages: Vec<Span>,
    /// Backend calls, in order.
    pub host: Vec<Span>,
    /// Executions of nodes, in order.
    pub calls: Vec<Call>,
}

/// The recorded events, shared by the backend that writes them and the caller that reads them.
#[derive(Debug, Clone)]
pub struct Log(Arc<Mutex<Events>>);

impl Log {
    /// The events recorded so far.
    pub fn events(&self) -> MutexGuard<'_, Events> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Discards everything except the plans, and restarts the clock.
    pub fn restart(&self) {
        let mut events = self.events();
        events.origin = Instant::now();
        events.stages.clear();
        events.host.clear();
        events.calls.clear();
    }

    /// Records that a stage begins and the previous one ends.
    pub fn begin(&self, stage: &str) {
        self.end();
        let mut events = self.events();
        let start = events.origin.elapsed();
        events.stages.push(Span { name: stage.into(), start, time: Duration::ZERO });
    }

    /// Records that the current stage ends.
    pub fn end(&self) {
        let mut events = self.events();
        let now = events.origin.elapsed();
        if let Some(last) = events.stages.last_mut().filter(|last| last.time.is_zero()) {
            last.time = now - last.start;
        }
    }

    /// Records a backend call that began at `start` and ends now.
    fn host(&self, name: String, start: Instant) {
        let mut events = self.events();
        let start = start.saturating_duration_since(events.origin);
        let time = events.origin.elapsed() - start;
        events.host.push(Span { name, start, time });
    }
}

/// A backend that records what its programs do.
pub struct Profiled {
    inner: Box<dyn Backend>,
    log: Log,
}

impl Profiled {
    /// Wraps another backend. Also returns the log that it will write.
    pub fn new(inner: Box<dyn Backend>) -> (Self, Log) {
        let (plans, stages, host, calls) = Default::default();
        let log = Log(Arc::new(Mutex::new(Events { origin: Instant::now(), plans, stages, host, calls })));
        (Self { inner, log: log.clone() }, log)
    }
}

impl Backend for Profiled {
    fn device(&self) -> &Device {
        self.inner.device()
    }

    fn free_bytes(&self) -> Result<u64> {
        self.inner.free_bytes()
    }

    fn peak_bytes(&self) -> Option<u64> {
        self.inner.peak_bytes()
    }

    fn compile_with(&self, plan: Arc<Plan>, kernels: &[&'static Kernel]) -> Result<Box<dyn Program>> {
        let start = Instant::now();
        let inner = self.inner.compile_with(plan.clone(), kernels)?;
        self.log.host("compile".into(), start);
        let mut events = self.log.events();
        events.plans.push(plan.clone());
        let index = events.plans.len() - 1;
        Ok(Box::new(ProfiledProgram { inner, log: self.log.clone(), plan, index }))
    }
}

struct ProfiledProgram {
    inner: Box<dyn Program>,
    log: Log,
    plan: Arc<Plan>,
    index: usize,
}

impl Program for ProfiledProgram {
    fn residency(&self) -> Residency {
        self.inner.residency()
    }

    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<()> {
        let start = Instant::now();
        self.inner.write(slot, bytes)?;
        self.log.host(format!("write {} bytes", bytes.len()), start);
        Ok(())
    }

    fn run(&mut self, nodes: Range<usize>) -> Result<()> {
        self.time(nodes).map(drop)
    }

    fn time(&mut self, nodes: Range<usize>) -> Result<Vec<Duration>> {
        let begin = Instant::now();
        let times = self.inner.time(nodes.clone())?;
        let segment = self.plan.segments.iter().find(|segment| segment.nodes == nodes);
        self.log.host(segment.map_or(format!("nodes {nodes:?}"), |segment| segment.name.into()), begin);
        let mut events = self.log.events();
        let mut start = begin.saturating_duration_since(events.origin);
        for (node, &time) in nodes.zip(&times) {
            events.calls.push(Call { plan: self.index, node, start, time });
            start += time;
        }
        Ok(times)
    }

    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()> {
        let start = Instant::now();
        self.inner.read(slot, bytes)?;
        self.log.host(format!("read {} bytes", bytes.len()), start);
        Ok(())
    }
}

/// How executions of nodes are grouped in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum By {
    /// By segment of the plan, e.g. `step_c`.
    Stage,
    /// By op.
    Op,
    /// By kernel.
    Kernel,
    /// By layer, named as in the checkpoint.
    Layer,
}

/// One group of a table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the group.
    pub name: String,
    /// Number of executions.
    pub calls: usize,
    /// Total time on the device in seconds.
    pub seconds: f64,
    /// Share of the device time of all groups, 0 to 1.
    pub share: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Compulsory memory traffic in bytes.
    pub bytes: u64,
    /// The resource that limits the group as a whole.
    pub bound: Limit,
    /// The shortest time that the device's ceilings allow, divided by the measured time.
    pub of_ceiling: f64,
}

impl Events {
    /// Groups the executions of nodes. The groups that take the most time come first.
    pub fn table(&self, by: By, device: &Device, ceilings: &Ceilings) -> Vec<Row> {
        let total: f64 = self.calls.iter().map(|call| call.time.as_secs_f64()).sum();
        let mut rows: Vec<Row> = Vec::new();
        let mut known = std::collections::HashMap::new();
        // For each row, the shortest possible time in seconds: for its memory traffic, for its arithmetic, and the sum
        // over its calls of the larger of the two.
        let mut least: Vec<[f64; 3]> = Vec::new();
        // For each node of each plan: its row in the table, and its cost.
        let mut nodes: Vec<Vec<(usize, Cost)>> = Vec::new();
        for plan in &self.plans {
            let mut place = |i: usize| {
                let node = &plan.nodes[i];
                let name = match by {
                    By::Stage => plan.segment_of(i).name.to_owned(),
                    By::Op => node.op.name().to_owned(),
                    By::Kernel => registry::choose(node, plan, device.target()).0.name.to_owned(),
                    By::Layer => format!("{} {}", plan.segment_of(i).name, node.at),
                };
                let row = *known.entry(name.clone()).or_insert_with(|| {
                    let (calls, seconds, share, flops, bytes, of_ceiling) = Default::default();
                    rows.push(Row { name, calls, seconds, share, flops, bytes, bound: Limit::Memory, of_ceiling });
                    least.push([0.0; 3]);
                    rows.len() - 1
                });
                (row, plan.cost(node, device.stores_bf16()))
            };
            nodes.push((0..plan.nodes.len()).map(&mut place).collect());
        }
        for call in &self.calls {
            let (row, cost) = nodes[call.plan][call.node];
            let Row { calls, seconds, flops, bytes, .. } = &mut rows[row];
            *calls += 1;
            *seconds += call.time.as_secs_f64();
            *flops += cost.flops;
            *bytes += cost.bytes;
            least[row][0] += cost.bytes as f64 / ceilings.bytes_per_second;
            least[row][1] += cost.flops as f64 / ceilings.flops_per_second;
            least[row][2] += ceilings.bound(cost).seconds;
        }
        for (row, [memory, compute, both]) in rows.iter_mut().zip(least) {
            row.share = row.seconds / total;
            row.bound = if compute > memory { Limit::Compute } else { Limit::Memory };
            row.of_ceiling = if row.seconds > 0.0 { both / row.seconds } else { 0.0 };
        }
        rows.retain(|row| row.calls > 0);
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    }
}
