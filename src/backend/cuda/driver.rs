//! What the backend asks of a driver: the real one, or the one that emulates a GPU for tests.

use std::sync::Arc;
use std::time::Duration;

use super::args::Args;
use super::code::Capability;
use super::fault::Outcome;
use super::tensor_map::{Maps, TensorMap};
use crate::backend::Device;
use crate::registry::cuda::Cuda;

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

/// Compiled kernels, as a driver takes them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Image<'a> {
    /// Instructions of one GPU. The driver may be too old for them.
    Cubin(&'a [u8]),
    /// What the driver compiles for its GPU.
    Ptx(&'a str),
}

/// What a kernel's launches need of an SM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// Most bytes of dynamic shared memory that a block is given.
    pub(super) shared: u32,
    /// The share of an SM's memory that is to be shared memory, in percent of the most that it can be; the rest is L1 cache.
    /// `None` leaves it to the driver.
    pub(super) carveout: Option<u32>,
}

impl Needs {
    /// Those of a row's kernels. Where a block takes more than kernels can declare, blocks and pipelines are made for all of
    /// an SM's shared memory: `depthwise_norm.512.sm90a` runs two blocks of 104 KiB, for which a driver that goes by one block
    /// would not have to leave room. What such kernels load they copy into shared memory, and L1 gains them nothing.
    pub(super) fn of(cuda: &Cuda) -> Self {
        let shared = cuda.number("SHARED").unwrap_or(0) as u32;
        Self { shared, carveout: (shared > 0).then_some(100) }
    }
}

/// Loads kernels into a device, on any thread, beside all other calls of the driver and of itself.
pub(super) trait Loader: Clone + Send + Sync + 'static {
    /// A kernel on the device.
    type Function;

    /// The device's compute capability.
    fn capability(&self) -> Capability;

    /// The kernels `entries` of a module.
    ///
    /// # Errors
    /// [`Fault::Refused`](super::fault::Fault::Refused) if the driver cannot make use of this image, but may of another one.
    fn load(&self, image: Image<'_>, entries: &[&str], needs: Needs) -> Outcome<Arc<[Self::Function]>>;
}

/// A device, its memory and one queue of work. Work is done in the order in which it is enqueued;
/// only what is [uploaded](Driver::upload) goes beside it.
///
/// Any thread may call it, one at a time: a [`Context`](super::context::Context) keeps it behind a lock.
pub(super) trait Driver: Send {
    /// A part of the device's memory, which is given back when the last clone is dropped.
    type Buffer: Clone + Send;
    /// A kernel on the device.
    type Function: Clone + Send + Sync + 'static;
    /// What loads kernels, beside all other calls.
    type Loader: Loader<Function = Self::Function>;
    /// Recorded launches.
    type Graph: Send;

    /// Most bytes of one [`upload`](Self::upload).
    const WINDOW: u64;

    /// Lets the calling thread make the calls below.
    fn bind(&self) -> Outcome<()>;

    /// The device.
    fn device(&self) -> &Device;

    /// The same with another idea of the device, for tests.
    fn device_mut(&mut self) -> &mut Device;

    /// Memory that is free now, in bytes.
    fn free_bytes(&self) -> Outcome<u64>;

    /// A buffer; its contents are arbitrary.
    fn allocate(&self, bytes: u64) -> Outcome<Self::Buffer>;

    /// Where a buffer begins, as kernels see it.
    fn address(buffer: &Self::Buffer) -> u64;

    /// Lets `fill` write `len` bytes, all of them, and copies them to offset `at` of a buffer while the work of
    /// the queue goes on. Only work that is enqueued after [`order`](Self::order) may read them.
    fn upload(&self, buffer: &Self::Buffer, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Outcome<()>;

    /// Work that is enqueued from now on begins when the uploads before this are done.
    fn order(&self) -> Outcome<()>;

    /// Whether more than `ahead` of the replays that were enqueued are still to be finished.
    fn busy(&self, ahead: usize) -> Outcome<bool>;

    /// Enqueues a copy of bytes to offset `at` of a buffer.
    fn write(&self, buffer: &Self::Buffer, at: u64, bytes: &[u8]) -> Outcome<()>;

    /// Waits for the work before, and copies bytes at offset `at` of a buffer to the host.
    fn read(&self, buffer: &Self::Buffer, at: u64, bytes: &mut [u8]) -> Outcome<()>;

    /// Waits until everything enqueued has been done, uploads too.
    fn wait(&self) -> Outcome<()>;

    /// Maps as this device takes them.
    fn encode(&self, maps: &[TensorMap]) -> Outcome<Maps>;

    /// What loads kernels for this device.
    fn loader(&self) -> Self::Loader;

    /// Enqueues a launch, or records it. Kernels that copy tiles take `maps` too. If it is `dependent`, its blocks may
    /// begin when those of the launch before are done, before what they wrote can be seen: its kernel waits for that.
    fn launch(
        &self,
        function: &Self::Function,
        geometry: Geometry,
        args: &Args,
        maps: Option<&Maps>,
        dependent: bool,
    ) -> Outcome<()>;

    /// Records the launches that `launches` makes instead of enqueueing them.
    fn record(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Self::Graph>;

    /// Enqueues the launches that `launches` makes, and says how long the device takes for them.
    fn time(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Duration>;

    /// Enqueues everything that was recorded.
    fn replay(&self, graph: &Self::Graph) -> Outcome<()>;
}
