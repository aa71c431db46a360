//! What the real driver hands out and takes back: memory of the device and of the host, and recorded launches. Each gives
//! itself back when it is dropped, on whatever thread that is.
#![allow(unsafe_code, reason = "the driver takes addresses")]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaGraph, DriverError, result};

/// Memory of the device. It is allocated plainly, not from a stream-ordered pool: there are few allocations and they
/// live long, two streams use them at once, and what is freed is free for everybody at once.
pub(in crate::backend::cuda) struct Allocation {
    pub(super) at: CUdeviceptr,
    pub(super) bytes: u64,
    context: Arc<CudaContext>,
}

impl Allocation {
    /// So many bytes, of which nobody knows what they hold. The context is current.
    pub(super) fn new(context: &Arc<CudaContext>, bytes: u64) -> Result<Self, DriverError> {
        // SAFETY: the context is current. What the memory holds is of no interest before it is written.
        let at = unsafe { result::malloc_sync(bytes as usize) }?;
        Ok(Self { at, bytes, context: context.clone() })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // Work that uses it may be under way.
        self.context.record_err(self.context.synchronize());
        // SAFETY: it came from `malloc_sync` of this context, which `synchronize` has made current, is freed
        // once, and everything enqueued is done. If that failed, the device is lost and its memory with it.
        self.context.record_err(unsafe { result::free_sync(self.at) });
    }
}

/// A window of page-locked memory of the host, which the bus reads without the CPU's help. It is write-combined: the
/// host fills it from front to back and never reads it.
pub(super) struct Staging {
    pub(super) at: *mut c_void,
    context: Arc<CudaContext>,
}

// SAFETY: page-locked memory belongs to a context, not to a thread, and nobody else has its address. `drop` makes the
// context current.
unsafe impl Send for Staging {}

impl Staging {
    /// So many zeros. The context is current.
    pub(super) fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: the context is current.
        let at = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_WRITECOMBINED) }?;
        // SAFETY: it has so many bytes, and nobody else knows of it. They become values here, once.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { at, context: context.clone() })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.context.record_err(self.context.synchronize());
        // SAFETY: it came from `malloc_host` and is freed once, when nothing reads it any more.
        self.context.record_err(unsafe { result::free_host(self.at) });
    }
}

/// Launches that were recorded.
pub(in crate::backend::cuda) struct Graph {
    graph: CudaGraph,
    context: Arc<CudaContext>,
}

// SAFETY: a graph belongs to a context, not to a thread. The driver wants calls with the same graph one after the other:
// this type is not `Sync`, so they come from one thread at a time. `drop` makes the context current, `launch` does too.
unsafe impl Send for Graph {}

impl Graph {
    /// Launches that were recorded on a stream of the context.
    pub(super) fn new(context: &Arc<CudaContext>, graph: CudaGraph) -> Self {
        Self { graph, context: context.clone() }
    }

    /// Enqueues them.
    pub(super) fn launch(&self) -> Result<(), DriverError> {
        self.graph.launch()
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // `graph` is dropped next, and does not do it.
        self.context.record_err(self.context.bind_to_thread());
    }
}
