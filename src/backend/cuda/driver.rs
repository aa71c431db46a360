//! What the backend asks of a driver: the real one, or the one that emulates a GPU for tests.

use std::rc::Rc;
use std::time::Duration;

use super::args::Args;
use super::fault::Outcome;
use super::tensor_map::{Maps, TensorMap};
use crate::backend::Device;

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Blocks along x, y and z.
    pub(super) grid: [u32; 3],
    /// Threads of a block.
    pub(super) threads: u32,
    /// Blocks of a cluster along x and y; the grid is whole clusters.
    pub(super) cluster: [u32; 2],
    /// Bytes of shared memory that a block is given beyond what the kernel declares.
    pub(super) shared: u32,
}

/// A device, its memory and one queue of work. Work is done in the order in which it is handed over;
/// only what is [uploaded](Driver::upload) goes beside it.
pub(super) trait Driver {
    /// A piece of memory.
    type Buffer: Clone;
    /// A kernel on the device.
    type Function: Clone;
    /// Recorded launches.
    type Graph;

    /// The device.
    fn device(&self) -> &Device;

    /// The same with another idea of the device, for tests.
    fn device_mut(&mut self) -> &mut Device;

    /// Memory that is free now, in bytes.
    fn free_bytes(&self) -> Outcome<u64>;

    /// A piece of memory; its contents are arbitrary.
    fn allocate(&self, bytes: u64) -> Outcome<Self::Buffer>;

    /// Where a buffer begins, as kernels see it.
    fn address(&self, buffer: &Self::Buffer) -> u64;

    /// Most bytes of one [`upload`](Self::upload).
    fn window(&self) -> u64;

    /// Lets `fill` write `len` bytes, all of them, and has them copied to offset `at` of a buffer, while
    /// the work of the queue goes on: of it, only what is handed over after [`order`](Self::order) may read them.
    fn upload(&self, buffer: &Self::Buffer, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Outcome<()>;

    /// Work that is handed over from now on begins when the uploads before this are done.
    fn order(&self) -> Outcome<()>;

    /// Whether more than `ahead` of the replays handed over are still to be finished.
    fn busy(&self, ahead: usize) -> Outcome<bool>;

    /// Hands over bytes, to be copied to offset `at` of a buffer in the order of the queue.
    fn write(&self, buffer: &Self::Buffer, at: u64, bytes: &[u8]) -> Outcome<()>;

    /// Waits for the work before, and copies bytes at offset `at` of a buffer to the host.
    fn read(&self, buffer: &Self::Buffer, at: u64, bytes: &mut [u8]) -> Outcome<()>;

    /// Waits until everything handed over has been done, uploads too.
    fn wait(&self) -> Outcome<()>;

    /// Maps as this device takes them.
    fn encode(&self, maps: &[TensorMap]) -> Outcome<Maps>;

    /// The kernels `entries` of a module, each to be launched with up to `shared` bytes of shared memory.
    fn load(&self, ptx: &str, entries: &[&str], shared: u32) -> Outcome<Rc<[Self::Function]>>;

    /// Hands over a launch, or records it. Kernels that copy tiles take `maps` too. If it is `dependent`, its blocks may
    /// begin when those of the launch before are done, before what they wrote can be seen: its kernel waits for that.
    fn launch(
        &self,
        function: &Self::Function,
        geometry: Geometry,
        args: &Args,
        maps: Option<&Maps>,
        dependent: bool,
    ) -> Outcome<()>;

    /// Records the launches that `launches` makes instead of handing them over.
    fn record(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Self::Graph>;

    /// Hands over the launches that `launches` makes, and says how long the device takes for them.
    fn time(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Duration>;

    /// Hands over everything that was recorded.
    fn replay(&self, graph: &Self::Graph) -> Outcome<()>;
}
