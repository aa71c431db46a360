//! An emulated GPU whose driver fails when a test tells it to.
#![cfg(test)]

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use super::args::Args;
use super::driver::{Driver, Geometry};
use super::emulated::Emulated;
use super::fault::{Fault, Outcome};
use super::tensor_map::{Maps, TensorMap};
use crate::backend::Device;

/// A driver that fails once when it is told to, and notes down how it is called.
pub(super) struct Failing {
    pub(super) inner: Emulated,
    /// The call that fails next, and how.
    pub(super) fails: Cell<Option<(&'static str, Fault)>>,
    pub(super) calls: RefCell<Vec<&'static str>>,
}

impl Failing {
    fn call<T>(&self, name: &'static str, call: impl FnOnce(&Emulated) -> Outcome<T>) -> Outcome<T> {
        self.calls.borrow_mut().push(name);
        match self.fails.take() {
            Some((fails, fault)) if fails == name => Err(fault),
            other => {
                self.fails.set(other);
                call(&self.inner)
            }
        }
    }
}

impl Driver for Failing {
    type Buffer = <Emulated as Driver>::Buffer;
    type Function = <Emulated as Driver>::Function;
    type Graph = <Emulated as Driver>::Graph;

    const WINDOW: u64 = Emulated::WINDOW;

    fn bind(&self) -> Outcome<()> {
        self.inner.bind()
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
    fn load(&self, ptx: &str, entries: &[&str], shared: u32) -> Outcome<Arc<[Self::Function]>> {
        self.call("load", |inner| inner.load(ptx, entries, shared))
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
