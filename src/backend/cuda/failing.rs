//! An emulated GPU whose driver fails when a test tells it to.
#![cfg(test)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::args::Args;
use super::code::Capability;
use super::driver::{Driver, Geometry, Image, Loader, Needs};
use super::emulated::{Emulated, Kernels};
use super::fault::{Fault, Outcome};
use super::tensor_map::{Maps, TensorMap};
use crate::backend::Device;

/// What a test tells a driver, and what it did. Its clones are of the same driver.
#[derive(Clone, Default)]
pub(super) struct Told(Arc<(Mutex<Record>, Condvar)>);

#[derive(Default)]
struct Record {
    /// The call that fails next, and how.
    fails: Option<(&'static str, Fault)>,
    calls: Vec<&'static str>,
    /// The calls that have to wait, each for another.
    holds: Vec<(&'static str, &'static str)>,
    /// The kernels that were loaded, each with what it needs.
    loaded: Vec<(String, Needs)>,
}

impl Told {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.0.lock().unwrap()
    }

    /// Calls of this name wait until one of the other name has begun, and fail if that takes long.
    pub(super) fn hold(&self, call: &'static str, until: &'static str) {
        self.record().holds.push((call, until));
    }

    /// The next call of this name fails so.
    pub(super) fn fail(&self, call: &'static str, fault: Fault) {
        self.record().fails = Some((call, fault));
    }

    /// The calls since this was asked last.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.record().calls)
    }

    /// The kernels that have been loaded, in alphabetical order.
    pub(super) fn loaded(&self) -> Vec<(String, Needs)> {
        let mut loaded = self.record().loaded.clone();
        loaded.sort_by(|(a, _), (b, _)| a.cmp(b));
        loaded
    }

    fn note(&self, call: &'static str) -> Outcome<()> {
        let mut record = self.record();
        record.calls.push(call);
        self.0.1.notify_all();
        if let Some((_, until)) = record.holds.iter().find(|(held, _)| *held == call).copied() {
            let waits = |record: &mut Record| !record.calls.contains(&until);
            let waited = self.0.1.wait_timeout_while(record, Duration::from_secs(20), waits).unwrap();
            record = waited.0;
            if waited.1.timed_out() {
                return Err(Fault::Other(format!("{call} waited for {until} in vain"), ""));
            }
        }
        match record.fails.take_if(|(fails, _)| *fails == call) {
            Some((_, fault)) => Err(fault),
            None => Ok(()),
        }
    }
}

/// A driver that fails once when it is told to, and notes down how it is called.
pub(super) struct Failing {
    pub(super) inner: Emulated,
    pub(super) told: Told,
}

impl Failing {
    fn call<T>(&self, name: &'static str, call: impl FnOnce(&Emulated) -> Outcome<T>) -> Outcome<T> {
        self.told.note(name).and_then(|()| call(&self.inner))
    }
}

/// Its loader: `cubin` and `ptx` are calls of it.
#[derive(Clone)]
pub(super) struct FailingLoader {
    pub(super) inner: Kernels,
    told: Told,
}

impl Loader for FailingLoader {
    type Function = <Emulated as Driver>::Function;

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    fn load(&self, image: Image<'_>, entries: &[&str], needs: Needs) -> Outcome<Arc<[Self::Function]>> {
        self.told.note(if matches!(image, Image::Cubin(_)) { "cubin" } else { "ptx" })?;
        let functions = self.inner.load(image, entries, needs)?;
        self.told.record().loaded.extend(entries.iter().map(|entry| (entry.to_string(), needs)));
        Ok(functions)
    }
}

impl Driver for Failing {
    type Buffer = <Emulated as Driver>::Buffer;
    type Function = <Emulated as Driver>::Function;
    type Loader = FailingLoader;
    type Graph = <Emulated as Driver>::Graph;

    const WINDOW: u64 = Emulated::WINDOW;

    fn bind(&self) -> Outcome<()> {
        self.call("bind", Emulated::bind)
    }

    fn device(&self) -> &Device {
        self.inner.device()
    }
    fn device_mut(&mut self) -> &mut Device {
        self.inner.device_mut()
    }
    fn free_bytes(&self) -> Outcome<u64> {
        self.call("free_bytes", Emulated::free_bytes)
    }
    fn allocate(&self, bytes: u64) -> Outcome<Self::Buffer> {
        self.call("allocate", |inner| inner.allocate(bytes))
    }
    fn address(buffer: &Self::Buffer) -> u64 {
        Emulated::address(buffer)
    }
    fn upload(&self, buffer: &Self::Buffer, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Outcome<()> {
        self.call("upload", |inner| inner.upload(buffer, at, len, fill))
    }
    fn order(&self) -> Outcome<()> {
        self.call("order", Emulated::order)
    }
    fn busy(&self, ahead: usize) -> Outcome<bool> {
        self.call("busy", |inner| inner.busy(ahead))
    }
    fn write(&self, buffer: &Self::Buffer, at: u64, bytes: &[u8]) -> Outcome<()> {
        self.call("write", |inner| inner.write(buffer, at, bytes))
    }
    fn read(&self, buffer: &Self::Buffer, at: u64, bytes: &mut [u8]) -> Outcome<()> {
        self.call("read", |inner| inner.read(buffer, at, bytes))
    }
    fn wait(&self) -> Outcome<()> {
        self.call("wait", Emulated::wait)
    }
    fn encode(&self, maps: &[TensorMap]) -> Outcome<Maps> {
        self.call("encode", |inner| inner.encode(maps))
    }
    fn loader(&self) -> FailingLoader {
        FailingLoader { inner: self.inner.loader(), told: self.told.clone() }
    }
    fn launch(
        &self,
        function: &Self::Function,
        geometry: Geometry,
        args: &Args,
        maps: Option<&Maps>,
        dependent: bool,
    ) -> Outcome<()> {
        let name = if dependent { "dependent launch" } else { "launch" };
        self.call(name, |inner| inner.launch(function, geometry, args, maps, dependent))
    }
    fn record(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Self::Graph> {
        self.call("record", |inner| inner.record(launches))
    }
    fn time(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
        self.call("time", |inner| inner.time(launches))
    }
    fn replay(&self, graph: &Self::Graph) -> Outcome<()> {
        self.call("replay", |inner| inner.replay(graph))
    }
}
