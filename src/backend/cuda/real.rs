//! The CUDA driver, through cudarc: opened at run time, so that the program starts where there is none.
#![allow(unsafe_code, reason = "the driver takes addresses")]

mod handles;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{
    self, CUdevice_attribute, CUevent_flags, CUfunction_attribute, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use super::args::Args;
use super::driver::{Driver, Geometry};
use super::fault::{CALLS, DEPENDENT_LAUNCHES, Fault, Outcome, needed};
use super::tensor_map::{Maps, TensorMap};
use crate::backend::{Device, Kind};
use crate::error::{Error, Result};
use crate::registry::Caps;
use handles::{Allocation, Graph, Staging, WINDOW};

/// Lowest compute capability that the kernels are compiled for.
const LOWEST: (i32, i32) = (8, 0);

/// The one compute capability that has what the kernels for Hopper use, and the first whose launches may begin before the
/// one before them is over.
const HOPPER: (i32, i32) = (9, 0);

// Each of `Maps` is where the driver may write one.
const _: () = {
    assert!(align_of::<Maps>().is_multiple_of(align_of::<sys::CUtensorMap>()));
    assert!(size_of::<sys::CUtensorMap>() == 128 && size_of::<Maps>().is_multiple_of(128));
};

/// Windows of staging memory: the bus reads some while the host fills another.
const STAGING: usize = 4;

/// A GPU, a stream of work on it, and one of uploads beside it.
pub(super) struct Real {
    device: Device,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    uploads: Arc<CudaStream>,
    /// Made when first used.
    staging: RefCell<Vec<Staging>>,
    /// The window of staging memory that is used next.
    next: Cell<usize>,
    /// The end of each replay that may not have finished.
    replays: RefCell<VecDeque<CudaEvent>>,
}

/// An error that says what the driver said, of device `index`.
fn failed(index: usize, found: impl std::fmt::Display) -> Error {
    let remedy = "update the NVIDIA driver, or use `device cpu`; `devices::all` lists what there is";
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
        Err(_) => Err(failed(index, format!("the driver is too old; {} has all functions", needed("")))),
    }
}

/// The CUDA version of the driver.
fn version() -> std::result::Result<(u32, u32), DriverError> {
    let mut version = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
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
            return Err(failed(index, format!("the last one here is cuda:{}", devices - 1)));
        }
        let version = guarded(index, version)?;
        if version < CALLS {
            let found = format!("the driver is of CUDA {}.{}; what is needed is {}", version.0, version.1, needed(""));
            return Err(failed(index, found));
        }
        let context = guarded(index, || CudaContext::new(index))?;
        let (major, minor) = guarded(index, || context.compute_capability())?;
        if (major, minor) < LOWEST {
            let found = format!("compute capability {major}.{minor}; the kernels need {}.{}", LOWEST.0, LOWEST.1);
            return Err(failed(index, found));
        }
        // cudarc's events for each allocation would get in the way of recording.
        // SAFETY: cudarc allocates nothing here. Of the two streams, one only uploads, and `order` is
        // what makes the other wait for it.
        unsafe { context.disable_event_tracking() };
        let stream = guarded(index, || context.new_stream())?;
        let uploads = guarded(index, || context.new_stream())?;
        let name = guarded(index, || context.name())?;
        let (free, _) = guarded(index, || context.mem_get_info())?;
        let name = format!("{name} (CUDA, compute capability {major}.{minor})");
        let hopper = if (major, minor) == HOPPER { Caps::SM90A } else { Caps::NONE };
        let dependent = (major, minor) >= HOPPER && version >= DEPENDENT_LAUNCHES;
        let caps = hopper.and(if dependent { Caps::DEPENDENT_LAUNCH } else { Caps::NONE });
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let sms = guarded(index, || context.attribute(count))?;
        let device = super::describe(name, Kind::Gpu, caps, sms as usize, free as u64);
        let (staging, next, replays) = Default::default();
        Ok(Self { device, context, stream, uploads, staging, next, replays })
    }

    fn check<T>(&self, done: std::result::Result<T, DriverError>) -> Outcome<T> {
        self.check_bytes(0, done)
    }

    fn check_bytes<T>(&self, bytes: u64, done: std::result::Result<T, DriverError>) -> Outcome<T> {
        done.map_err(|e| Fault::of(e.0, e.to_string(), bytes))
    }

    /// An event at the end of everything enqueued on a stream so far.
    fn end(&self, stream: &CudaStream) -> Outcome<CudaEvent> {
        self.check(stream.record_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING)))
    }
}

impl Driver for Real {
    type Buffer = Arc<Allocation>;
    type Function = CudaFunction;
    type Graph = Graph;

    const WINDOW: u64 = WINDOW as u64;

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
        assert!(at + len as u64 <= buffer.bytes && len <= WINDOW, "the copy ends inside the buffer and the window");
        let mut staging = self.staging.borrow_mut();
        let next = self.next.replace((self.next.get() + 1) % STAGING);
        if staging.len() <= next {
            staging.push(self.check_bytes(WINDOW as u64, Staging::new(&self.context))?);
        }
        let staged = &mut staging[next];
        if let Some(read) = staged.read.take() {
            self.check(read.synchronize())?;
        }
        // SAFETY: it has WINDOW bytes, all of them initialized; the bus has read what was there
        // before, and `staging` is borrowed: nobody else looks.
        let window = unsafe { std::slice::from_raw_parts_mut(staged.at.cast::<u8>(), len) };
        fill(window);
        // SAFETY: the range is inside the buffer. The window is not written again before the event
        // recorded next, and lives until then: dropping it waits.
        let done = unsafe { result::memcpy_htod_async(buffer.at + at, window, self.uploads.cu_stream()) };
        staged.read = Some(self.end(&self.uploads)?);
        self.check(done)
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
        // SAFETY: the range is inside the buffer. The host's memory is pageable: the driver has read it
        // when the call returns.
        self.check(unsafe { result::memcpy_htod_async(buffer.at + at, bytes, self.stream.cu_stream()) })
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

    fn load(&self, ptx: &str, entries: &[&str], shared: u32) -> Outcome<Arc<[CudaFunction]>> {
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
        let graph = graph?.ok_or_else(|| Fault::Other("the driver recorded nothing".into()))?;
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
