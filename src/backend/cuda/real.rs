//! The CUDA driver, through cudarc: opened at run time, so that the program starts where there is none.
#![allow(unsafe_code, reason = "the driver takes addresses")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{
    self, CUevent_flags, CUfunction_attribute, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig,
    PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;

use super::args::Args;
use super::driver::{Driver, Geometry};
use crate::backend::weights::Memory;
use crate::backend::{Device, Kind};
use crate::error::{Error, Result};
use crate::registry::Caps;

/// Lowest compute capability that the kernels are compiled for.
const LOWEST: (i32, i32) = (8, 0);

// SAFETY: plain numbers, laid out as the kernels' `Args`, whose size a test of both sides pins.
unsafe impl DeviceRepr for Args {}

/// A GPU, and a stream of work on it.
pub(super) struct Real {
    device: Device,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

/// An error that says what the driver said, of device `index`.
fn failed(index: usize, found: impl std::fmt::Display) -> Error {
    let remedy = "update the NVIDIA driver, or use --device cpu; `cascade-rt devices` lists what there is";
    Error::Device { wanted: format!("cuda:{index}"), found: found.to_string(), remedy: remedy.into() }
}

/// Whether there is a driver at all. Without one, every other call would panic.
fn present() -> bool {
    // SAFETY: it opens the driver's library and closes it again; that library's start-up code is trusted.
    unsafe { sys::is_culib_present() }
}

/// Calls the driver; a function that an old driver lacks is an error too, though cudarc panics.
fn guarded<T>(index: usize, call: impl FnOnce() -> std::result::Result<T, DriverError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(|e| failed(index, e)),
        Err(_) => Err(failed(index, "the driver lacks a function that CUDA 12.0 has")),
    }
}

/// How many devices there are, or why none can be used.
pub(super) fn count() -> std::result::Result<usize, String> {
    if !present() {
        return Err("no CUDA driver is installed (libcuda)".into());
    }
    match guarded(0, CudaContext::device_count) {
        Ok(0) => Err("the CUDA driver finds no device".into()),
        Ok(n) => Ok(n as usize),
        Err(Error::Device { found, .. }) => Err(found),
        Err(other) => Err(other.to_string()),
    }
}

impl Real {
    /// Opens device `index` with everything that it can do.
    pub(super) fn open(index: usize) -> Result<Self> {
        let devices = count().map_err(|found| failed(index, found))?;
        if index >= devices {
            return Err(failed(index, format!("there are {devices}, the first is cuda:0")));
        }
        let context = guarded(index, || CudaContext::new(index))?;
        let (major, minor) = guarded(index, || context.compute_capability())?;
        if (major, minor) < LOWEST {
            let found = format!("compute capability {major}.{minor}; the kernels need {}.{}", LOWEST.0, LOWEST.1);
            return Err(failed(index, found));
        }
        // One stream keeps its own order; events between streams would get in the way of recording.
        // SAFETY: nothing has been allocated yet, and no other stream is ever made.
        unsafe { context.disable_event_tracking() };
        let stream = guarded(index, || context.new_stream())?;
        let name = guarded(index, || context.name())?;
        let (free, _) = guarded(index, || context.mem_get_info())?;
        let name = format!("{name} (CUDA, compute capability {major}.{minor})");
        let device = super::describe(name, Kind::Gpu, Caps::NONE, free as u64);
        Ok(Self { device, context, stream })
    }

    fn check<T>(&self, done: std::result::Result<T, DriverError>) -> Result<T> {
        done.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::DoesNotFit {
                device: self.device.name.clone(),
                free_mib: self.device.free_bytes >> 20,
                need_mib: 0,
                detail: "the driver refused an allocation".into(),
                remedy: "try a smaller --width and --height, fewer images, or --device cpu".into(),
            },
            _ => failed(self.context.ordinal(), e),
        })
    }
}

impl Memory for Real {
    type Buffer = Arc<CudaSlice<u8>>;

    fn limit(&self) -> u64 {
        u64::MAX
    }

    fn allocate(&self, bytes: u64) -> Result<Arc<CudaSlice<u8>>> {
        self.check(self.stream.alloc_zeros((bytes as usize).max(256))).map(Arc::new)
    }

    fn copy(&self, buffer: &Arc<CudaSlice<u8>>, at: u64, bytes: &[u8]) -> Result<()> {
        assert!(at as usize + bytes.len() <= buffer.len(), "the copy ends inside the buffer");
        self.check(self.context.bind_to_thread())?;
        // SAFETY: the range is inside the buffer. The host's memory is pageable: the driver has read it
        // when the call returns.
        let done = unsafe { result::memcpy_htod_async(self.address(buffer) + at, bytes, self.stream.cu_stream()) };
        self.check(done)
    }

    fn wait(&self) -> Result<()> {
        self.check(self.stream.synchronize())
    }
}

impl Driver for Real {
    type Function = CudaFunction;
    type Graph = CudaGraph;

    fn device(&self) -> &Device {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    fn address(&self, buffer: &Arc<CudaSlice<u8>>) -> u64 {
        buffer.device_ptr(&self.stream).0
    }

    fn read(&self, buffer: &Arc<CudaSlice<u8>>, at: u64, bytes: &mut [u8]) -> Result<()> {
        assert!(at as usize + bytes.len() <= buffer.len(), "the copy begins and ends inside the buffer");
        self.check(self.context.bind_to_thread())?;
        // SAFETY: the range is inside the buffer, and `bytes` is not looked at before `wait` returns.
        let done = unsafe { result::memcpy_dtoh_async(bytes, self.address(buffer) + at, self.stream.cu_stream()) };
        // Wait whatever the call said: a copy may be under way.
        self.wait().and(self.check(done))
    }

    fn load(&self, ptx: &str, entries: &[&str], shared: u32) -> Result<Rc<[CudaFunction]>> {
        let module = self.check(self.context.load_module(Ptx::from_src(ptx)))?;
        let load = |name: &&str| {
            let function = self.check(module.load_function(name))?;
            if shared > 0 {
                let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                self.check(function.set_attribute(attribute, shared as i32))?;
            }
            Ok(function)
        };
        entries.iter().map(load).collect()
    }

    fn launch(&self, function: &CudaFunction, geometry: Geometry, args: &Args) -> Result<()> {
        let config = LaunchConfig {
            grid_dim: geometry.grid.into(),
            block_dim: (geometry.threads, 1, 1),
            shared_mem_bytes: geometry.shared,
        };
        // SAFETY: the kernel takes one `Args` by value. Every address in it is that of a living buffer of
        // this driver, or 0 where there is no operand: `CudaProgram`, its only maker, holds them, and
        // drops them through the same stream. Kernels stay inside their operands' shapes, which
        // tests/kernels.rs checks on the host.
        let done = unsafe { self.stream.launch_builder(function).arg(args).launch(config) };
        self.check(done).map(drop)
    }

    fn record(&self, launches: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.check(self.stream.begin_capture(mode))?;
        let done = launches();
        // End it in any case: a stream that is being recorded does nothing else.
        let graph = self.check(self.stream.end_capture(CUgraphInstantiate_flags(0)));
        done?;
        let graph = graph?.ok_or_else(|| failed(self.context.ordinal(), "the driver recorded nothing"))?;
        self.check(graph.upload())?;
        Ok(graph)
    }

    fn time(&self, launches: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let now = || self.check(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)));
        let start = now()?;
        launches()?;
        let milliseconds = self.check(start.elapsed_ms(&now()?))?;
        Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
    }

    fn replay(&self, graph: &CudaGraph) -> Result<()> {
        self.check(graph.launch())
    }
}
