//! What the backend asks of a driver: the real one, or the one that plays a GPU for tests.

use std::rc::Rc;
use std::time::Duration;

use super::args::Args;
use crate::backend::Device;
use crate::backend::weights::Memory;
use crate::error::Result;

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Blocks along x, y and z.
    pub(super) grid: [u32; 3],
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of shared memory that a block is given beyond what the kernel declares.
    pub(super) shared: u32,
}

/// A device, its memory and one queue of work. Work is done in the order in which it is handed over.
pub(super) trait Driver: Memory {
    /// A kernel on the device.
    type Function: Clone;
    /// Recorded launches.
    type Graph;

    /// The device.
    fn device(&self) -> &Device;

    /// The same with another idea of the device, for tests.
    fn device_mut(&mut self) -> &mut Device;

    /// Where a buffer begins, as kernels see it.
    fn address(&self, buffer: &Self::Buffer) -> u64;

    /// Waits for the work before, and copies bytes at offset `at` of a buffer to the host.
    fn read(&self, buffer: &Self::Buffer, at: u64, bytes: &mut [u8]) -> Result<()>;

    /// The kernels `entries` of a module, each to be launched with up to `shared` bytes of shared memory.
    fn load(&self, ptx: &str, entries: &[&str], shared: u32) -> Result<Rc<[Self::Function]>>;

    /// Hands over a launch, or records it.
    fn launch(&self, function: &Self::Function, geometry: Geometry, args: &Args) -> Result<()>;

    /// Records the launches that `launches` makes instead of handing them over.
    fn record(&self, launches: impl FnOnce() -> Result<()>) -> Result<Self::Graph>;

    /// Hands over the launches that `launches` makes, and says how long the device takes for them.
    fn time(&self, launches: impl FnOnce() -> Result<()>) -> Result<Duration>;

    /// Hands over everything that was recorded.
    fn replay(&self, graph: &Self::Graph) -> Result<()>;
}
