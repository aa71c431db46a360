//! The CUDA driver, through cudarc: opened at run time, so that the program starts where there is none.
#![allow(unsafe_code, reason = "the driver takes addresses")]

mod handles;
mod library;
mod loader;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{self, CUdevice_attribute, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaStream, DriverError, result};

use super::args::Args;
use super::code::Capability;
use super::driver::{Driver, Geometry};
use super::fault::{self, CALLS, DEPENDENT_LAUNCHES, Fault, Outcome, needed};
use super::ring::Ring;
use super::tensor_map::{Maps, TensorMap};
use crate::backend::{Device, Kind};
use crate::error::{Error, Result};
use crate::registry::Caps;
use handles::{Allocation, Graph, Staging};
use loader::Modules;

/// Lowest compute capability that the kernels are compiled for.
const LOWEST: Capability = (8, 0);

/// The one compute capability that has what the kernels for Hopper use, and the first whose launches may begin before the
/// one before them is over.
const HOPPER: Capability = (9, 0);

// Each of `Maps` is where the driver may write one.
const _: () = {
    assert!(align_of::<Maps>().is_multiple_of(align_of::<sys::CUtensorMap>()));
    assert!(size_of::<sys::CUtensorMap>() == 128 && size_of::<Maps>().is_multiple_of(128));
};

/// Bytes of a window of staging memory, for weights and for what a plan is given.
const UPLOAD_WINDOW: usize = 16 << 20;
const WRITE_WINDOW: usize = 4 << 20;

/// A GPU, a stream of work on it, and one of uploads beside it.
pub(super) struct Real {
    device: Device,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    uploads: Arc<CudaStream>,
    capability: Capability,
    /// What is uploaded on its way to the device, and what is written.
    staged_uploads: RefCell<Ring<Staging, CudaEvent>>,
    staged_writes: RefCell<Ring<Staging, CudaEvent>>,
    /// The end of each replay that may not have finished.
    replays: RefCell<VecDeque<CudaEvent>>,
}

/// An error of device `index`.
fn failed(index: usize, found: impl Into<String>, remedy: &str) -> Error {
    Error::Device { wanted: format!("cuda:{index}"), found: found.into(), remedy: remedy.into() }
}

/// What to do about a driver that is too old.
fn update() -> String {
    format!("install {}, or use `device cpu`", needed(""))
}

/// The result of a call that opens device `index`.
fn opened<T>(index: usize, done: std::result::Result<T, DriverError>) -> Result<T> {
    done.map_err(|e| failed(index, library::words(e), fault::advice(e.0)))
}

/// The CUDA version of the driver.
fn version() -> std::result::Result<(u32, u32), DriverError> {
    let mut version = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

/// How many devices there are.
///
/// # Errors
/// Why device `index` cannot be opened, nor any other.
fn available(index: usize) -> Result<usize> {
    let lacks = library::missing().ok_or_else(|| {
        failed(index, "no CUDA driver is installed (libcuda)", "install the NVIDIA driver, or use `device cpu`")
    })?;
    if let Some(first) = lacks.first() {
        let others = if lacks.len() > 1 { format!(" and {} others", lacks.len() - 1) } else { String::new() };
        return Err(failed(index, format!("the CUDA driver lacks the function {first}{others}"), &update()));
    }
    match opened(index, CudaContext::device_count())? {
        0 => Err(failed(index, "the CUDA driver finds no device", fault::advice(sys::CUresult::CUDA_ERROR_NO_DEVICE))),
        n => Ok(n as usize),
    }
}

/// How many devices there are, or why none can be used.
pub(super) fn count() -> std::result::Result<usize, String> {
    available(0).map_err(|error| match error {
        Error::Device { found, .. } => found,
        other => other.to_string(),
    })
}

impl Real {
    /// Opens device `index` with everything that it can do.
    pub(super) fn open(index: usize) -> Result<Self> {
        let devices = available(index)?;
        if index >= devices {
            let last = format!("the last one here is cuda:{}", devices - 1);
            return Err(failed(index, last, "`devices::all` lists what there is"));
        }
        let version = opened(index, version())?;
        if version < CALLS {
            return Err(failed(index, format!("the driver is of CUDA {}.{}", version.0, version.1), &update()));
        }
        let context = opened(index, CudaContext::new(index))?;
        let (major, minor) = opened(index, context.compute_capability())?;
        let capability = (major as u32, minor as u32);
        if capability < LOWEST {
            let found = format!("compute capability {major}.{minor}; the kernels need {}.{}", LOWEST.0, LOWEST.1);
            return Err(failed(index, found, "use another GPU, `device wgpu` or `device cpu`"));
        }
        // cudarc's events for each allocation would get in the way of recording.
        // SAFETY: cudarc allocates nothing here. Of the two streams, one only uploads, and `order` is
        // what makes the other wait for it.
        unsafe { context.disable_event_tracking() };
        let stream = opened(index, context.new_stream())?;
        let uploads = opened(index, context.new_stream())?;
        let name = opened(index, context.name())?;
        let (free, _) = opened(index, context.mem_get_info())?;
        let name = format!("{name} (CUDA, compute capability {major}.{minor})");
        let hopper = if capability == HOPPER { Caps::SM90A } else { Caps::NONE };
        let dependent = capability >= HOPPER && version >= DEPENDENT_LAUNCHES;
        let caps = hopper.and(if dependent { Caps::DEPENDENT_LAUNCH } else { Caps::NONE });
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let sms = opened(index, context.attribute(count))?;
        let device = super::describe(name, Kind::Gpu, caps, sms as usize, free as u64);
        let (staged_uploads, staged_writes, replays) = Default::default();
        Ok(Self { device, context, stream, uploads, capability, staged_uploads, staged_writes, replays })
    }

    /// Lets `fill` write `len` bytes to a window of staging memory, and enqueues their copy to a buffer. The driver reads
    /// them when the copy runs: with pageable memory it may have done so when a call returns, but it need not, least of all
    /// where the GPU reads the host's pages itself (HMM, Grace Hopper). Waiting for the copy instead would mean waiting for all
    /// that is enqueued before it.
    fn stage(
        &self,
        (ring, window): (&RefCell<Ring<Staging, CudaEvent>>, usize),
        stream: &CudaStream,
        (buffer, at): (&Allocation, u64),
        len: usize,
        fill: &dyn Fn(&mut [u8]),
    ) -> Outcome<()> {
        assert!(at + len as u64 <= buffer.bytes && len <= window, "the copy ends inside the buffer and the window");
        let mut ring = ring.borrow_mut();
        let make = || self.check_bytes(window as u64, Staging::new(&self.context, window));
        let staged = ring.free(make, |event| self.check(event.synchronize()))?;
        // SAFETY: it has `window` bytes, all of them initialized; the bus has read what was there before, for which `free`
        // has waited, and `ring` is borrowed: nobody else looks.
        let bytes = unsafe { std::slice::from_raw_parts_mut(staged.at.cast::<u8>(), len) };
        fill(bytes);
        // SAFETY: the range is inside the buffer. The window is not written again before the copy is over: its event is
        // recorded next, or else the stream is waited for. Nor is it given back before that: dropping it waits.
        let done = unsafe { result::memcpy_htod_async(buffer.at + at, bytes, stream.cu_stream()) };
        match self.end(stream) {
            Ok(event) => ring.fill(event),
            // Should this fail as well, the device has stopped, and the copy with it.
            Err(fault) => return self.check(stream.synchronize()).and(Err(fault)),
        }
        self.check(done)
    }

    fn check<T>(&self, done: std::result::Result<T, DriverError>) -> Outcome<T> {
        self.check_bytes(0, done)
    }

    fn check_bytes<T>(&self, bytes: u64, done: std::result::Result<T, DriverError>) -> Outcome<T> {
        done.map_err(|e| fault_of(e, bytes))
    }

    /// An event at the end of everything enqueued on a stream so far.
    fn end(&self, stream: &CudaStream) -> Outcome<CudaEvent> {
        self.check(stream.record_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING)))
    }
}

fn fault_of(error: DriverError, bytes: u64) -> Fault {
    Fault::of(error.0, library::words(error), bytes)
}

impl Driver for Real {
    type Buffer = Arc<Allocation>;
    type Function = CudaFunction;
    type Loader = Modules;
    type Graph = Graph;

    const WINDOW: u64 = UPLOAD_WINDOW as u64;

    fn bind(&self) -> Outcome<()> {
        self.check(self.context.bind_to_thread())
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    fn free_bytes(&self) -> Outcome<u64> {
        self.check(self.context.mem_get_info()).map(|(free, _)| free as u64)
    }

    fn allocate(&self, bytes: u64) -> Outcome<Arc<Allocation>> {
        let bytes = bytes.max(256);
        self.check_bytes(bytes, Allocation::new(&self.context, bytes)).map(Arc::new)
    }

    fn address(buffer: &Arc<Allocation>) -> u64 {
        buffer.at
    }

    fn upload(&self, buffer: &Arc<Allocation>, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Outcome<()> {
        self.stage((&self.staged_uploads, UPLOAD_WINDOW), &self.uploads, (buffer, at), len, fill)
    }

    fn order(&self) -> Outcome<()> {
        let end = self.end(&self.uploads)?;
        self.check(self.stream.wait(&end))
    }

    fn busy(&self, ahead: usize) -> Outcome<bool> {
        let mut replays = self.replays.borrow_mut();
        while let Some(first) = replays.front() {
            if !self.check(first.try_is_complete())? {
                break;
            }
            replays.pop_front();
        }
        Ok(replays.len() > ahead)
    }

    fn write(&self, buffer: &Arc<Allocation>, at: u64, bytes: &[u8]) -> Outcome<()> {
        assert!(at + bytes.len() as u64 <= buffer.bytes, "the copy ends inside the buffer");
        for (i, part) in bytes.chunks(WRITE_WINDOW).enumerate() {
            let (ring, at) = ((&self.staged_writes, WRITE_WINDOW), at + (i * WRITE_WINDOW) as u64);
            self.stage(ring, &self.stream, (buffer, at), part.len(), &|to| to.copy_from_slice(part))?;
        }
        Ok(())
    }

    fn read(&self, buffer: &Arc<Allocation>, at: u64, bytes: &mut [u8]) -> Outcome<()> {
        assert!(at + bytes.len() as u64 <= buffer.bytes, "the copy begins and ends inside the buffer");
        // SAFETY: the range is inside the buffer, and `bytes` is not looked at before the wait is over.
        let done = unsafe { result::memcpy_dtoh_async(bytes, buffer.at + at, self.stream.cu_stream()) };
        // Wait whatever the call said: a copy may be under way.
        self.check(self.stream.synchronize()).and(self.check(done))
    }

    fn wait(&self) -> Outcome<()> {
        self.check(self.context.synchronize())
    }

    fn encode(&self, maps: &[TensorMap]) -> Outcome<Maps> {
        let mut encoded: Maps = bytemuck::Zeroable::zeroed();
        for (map, to) in maps.iter().zip(&mut encoded.0) {
            let swizzle = match map.row_bytes() {
                64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
                _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            };
            // SAFETY: extents, strides, the tile and its steps are arrays of the rank's length at least, or one less for
            // strides, which the driver reads before it returns. It writes to `to`, which is as large as a map and
            // aligned like one (below), and does not look at what lies at the address. Copies stay in the tensor,
            // which `CudaProgram` holds: beyond it are zeros.
            let done = unsafe {
                sys::cuTensorMapEncodeTiled(
                    (&raw mut *to).cast(),
                    sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                    map.rank,
                    map.address as *mut std::ffi::c_void,
                    map.extent.as_ptr(),
                    map.stride.as_ptr(),
                    map.tile.as_ptr(),
                    [1; 4].as_ptr(),
                    sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                    swizzle,
                    sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                    sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                )
            };
            self.check(done.result())?;
        }
        Ok(encoded)
    }

    fn loader(&self) -> Modules {
        Modules { context: self.context.clone(), capability: self.capability }
    }

    fn launch(
        &self,
        function: &CudaFunction,
        geometry: Geometry,
        args: &Args,
        maps: Option<&Maps>,
        dependent: bool,
    ) -> Outcome<()> {
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let [x, y, z] = geometry.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: geometry.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: geometry.shared,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: dependent.into(),
        };
        let maps = maps.map_or(std::ptr::null(), std::ptr::from_ref);
        let mut parameters = [std::ptr::from_ref(args).cast_mut().cast(), maps.cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one `Args` by value, and `Maps` if its row has tiles, plain numbers that the driver
        // copies before it returns, as it does `config`; its clusters are in its PTX. Every address in both is that of
        // a living buffer of this driver, or 0 where there is no operand: `CudaProgram`, its only maker, holds them, and
        // dropping one waits for the device. Kernels stay inside their operands' shapes, which tests/kernels.rs checks
        // on the host. One that may begin early waits before it reads or writes, which tests/ptx.rs checks.
        let call = unsafe {
            sys::cuLaunchKernelEx(&config, function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut())
        };
        self.check(call.result())
    }

    fn record(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Graph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.check(self.stream.begin_capture(mode))?;
        let done = launches();
        // End it in any case: a stream that is being recorded does nothing else.
        let graph = self.check(self.stream.end_capture(CUgraphInstantiate_flags(0)));
        done?;
        let graph = graph?.ok_or_else(|| {
            Fault::Other("the driver recorded nothing".into(), fault::advice(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED))
        })?;
        self.check(graph.upload())?;
        Ok(Graph::new(&self.context, graph))
    }

    fn time(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
        let now = || self.check(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)));
        let start = now()?;
        launches()?;
        let milliseconds = self.check(start.elapsed_ms(&now()?))?;
        Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
    }

    fn replay(&self, graph: &Graph) -> Outcome<()> {
        self.check(graph.launch())?;
        let end = self.end(&self.stream)?;
        self.replays.borrow_mut().push_back(end);
        // Forgets those that are over.
        self.busy(0).map(drop)
    }
}
