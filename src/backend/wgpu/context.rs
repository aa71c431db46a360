//! A device and its queue, with everything that can go wrong turned into errors.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::cache::Cache;
use super::pace::Pace;
use super::tally::Tally;
use super::{Less, adapter, memory};
use crate::backend::weights::Memory;
use crate::backend::{Device, Kind, Peak};
use crate::error::{Error, Result};
use crate::registry::Caps;

/// What the device reported outside of any call.
#[derive(Debug, Clone)]
enum Fault {
    Lost(String),
    OutOfMemory,
    Other(String),
}

/// An opened device.
pub(super) struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    adapter: wgpu::Adapter,
    info: Device,
    /// Compiled pipelines that outlive the process.
    pub(super) cache: Option<Cache>,
    fault: Arc<Mutex<Option<Fault>>>,
    /// Weights on their way to wgpu's own staging memory.
    staging: Mutex<Vec<u8>>,
    /// Bytes of all buffers.
    taken: Arc<AtomicU64>,
    /// Memory that buffers took, as far as wgpu's allocator tells.
    pub(super) peak: Peak,
    /// How much it is given at a time.
    pace: Mutex<Pace<wgpu::SubmissionIndex>>,
    /// What it has done of that.
    pub(super) tally: Tally,
}

/// A buffer whose memory is free as soon as this is dropped and the device has finished with it, whatever bind groups
/// still name it.
pub(super) struct Buffer {
    raw: wgpu::Buffer,
    /// The context's.
    taken: Arc<AtomicU64>,
}

impl Deref for Buffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.raw
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.raw.destroy();
        self.taken.fetch_sub(self.raw.size(), Ordering::Relaxed);
    }
}

/// Bytes of weights enqueued before the device is made to move them, which bounds its staging memory.
const WINDOW: u64 = 32 << 20;

/// Bytes of the smallest buffer.
pub(super) const LEAST: u64 = 256;

impl Context {
    /// Opens an adapter with what `caps` needs and no more, as if it had `less`.
    pub(super) fn open(adapter: &wgpu::Adapter, caps: Caps, less: Less) -> Result<Self> {
        let described = adapter::describe(adapter);
        let info = Device { caps, free_bytes: less.memory.unwrap_or(described.free_bytes), ..described };
        // These cost nothing until they are asked for.
        let features = adapter::features(caps)
            | (adapter.features() & (wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE));
        let experimental = features.intersects(wgpu::Features::all_experimental_mask());
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("cascade-rt"),
            required_features: features,
            required_limits: less.limits(adapter.limits()),
            experimental_features: if experimental {
                #[expect(unsafe_code, reason = "cooperative matrices are experimental in wgpu")]
                // SAFETY: wgpu asks to be told that such features may have bugs; the kernels that use
                // them are compared with others before a device is trusted with them, see `trial`.
                unsafe {
                    wgpu::ExperimentalFeatures::enabled()
                }
            } else {
                wgpu::ExperimentalFeatures::disabled()
            },
            // Few large buffers, made once.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let opened = pollster::block_on(adapter.request_device(&descriptor));
        let (device, queue) = opened.map_err(|e| Error::Device {
            wanted: info.name.clone(),
            found: e.to_string(),
            remedy: "try `device cpu`".into(),
        })?;
        let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
        // The first fault is the cause; those that follow are its consequences. Loss explains everything.
        let note = |fault: &Mutex<Option<Fault>>, new: Fault| {
            let mut known = fault.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_none() || matches!(new, Fault::Lost(_)) {
                *known = Some(new);
            }
        };
        let lost = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            note(&lost, Fault::Lost(format!("{reason:?} {message}").trim().to_owned()));
        });
        let uncaptured = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let new = match error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory,
                other => Fault::Other(other.to_string()),
            };
            note(&uncaptured, new);
        }));
        let (staging, taken, peak) = Default::default();
        let cache = Cache::of(&device, &adapter.get_info());
        let (pace, tally) = (Mutex::new(Pace::new(less.submission)), Tally::new(&device));
        let adapter = adapter.clone();
        Ok(Self { device, queue, adapter, info, cache, fault, staging, taken, peak, pace, tally })
    }

    /// The same with something that was found wrong.
    pub(super) fn with_fault(mut self, fault: String) -> Self {
        self.info.faults.push(fault);
        self
    }

    /// What the device can do, as asked for when it was opened.
    pub(super) fn info(&self) -> &Device {
        &self.info
    }

    /// The error of a call that failed without a fault being reported.
    pub(super) fn failed(&self, found: String) -> Error {
        Error::Device { wanted: self.info.name.clone(), found, remedy: "try `device cpu`".into() }
    }

    /// The device's limits.
    pub(super) fn limits(&self) -> wgpu::Limits {
        self.device.limits()
    }

    /// An error if the device has reported one. What failed for want of memory may succeed later.
    pub(super) fn check(&self) -> Result<()> {
        let fault = {
            let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            let fault = known.clone();
            known.take_if(|fault| matches!(fault, Fault::OutOfMemory));
            fault
        };
        let (found, remedy) = match fault {
            None => return Ok(()),
            Some(Fault::OutOfMemory) => {
                let taken = self.taken.load(Ordering::Relaxed);
                return Err(self.does_not_fit(taken, "which it had already given, and then refused more"));
            }
            Some(Fault::Lost(why)) => (
                format!("the device was lost ({why})"),
                "run again; if it happens again try a smaller size, an updated driver, or `device cpu`",
            ),
            Some(Fault::Other(why)) => (why, "this is a fault of a kernel or the driver; `device cpu` always works"),
        };
        Err(Error::Device { wanted: self.info.name.clone(), found, remedy: remedy.into() })
    }

    /// Of what the device had when it was opened, the bytes that are not taken, or less if others have taken some since.
    fn free(&self) -> u64 {
        let ours = self.info.free_bytes.saturating_sub(self.taken.load(Ordering::Relaxed));
        match self.info.kind {
            // What it takes comes from the host when it is first written, so that the host has not missed it yet.
            Kind::Software => ours,
            _ => ours.min(memory::free(&self.adapter)),
        }
    }

    /// The error of a request for `need` bytes that cannot be met.
    pub(super) fn does_not_fit(&self, need: u64, detail: &str) -> Error {
        Error::DoesNotFit {
            device: self.info.name.clone(),
            free_mib: self.free() >> 20,
            need_mib: need.div_ceil(1 << 20),
            detail: detail.into(),
            remedy: "try a smaller `width` and `height`, fewer images, or `device cpu`".into(),
        }
    }

    /// The error of something that is larger than the device takes in one piece.
    pub(super) fn too_large(&self, piece: &'static str, at: &str, need: u64, limit: u64) -> Error {
        Error::TooLarge {
            device: self.info.name.clone(),
            piece,
            at: at.into(),
            limit_mib: limit >> 20,
            need_mib: need.div_ceil(1 << 20),
            remedy: "try a smaller `width` and `height`, or `device cpu`".into(),
        }
    }

    /// A buffer of at least [`LEAST`] bytes.
    pub(super) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<Buffer> {
        let size = bytes.max(LEAST);
        if size > self.limits().max_buffer_size {
            return Err(self.too_large("buffer", label, size, self.limits().max_buffer_size));
        }
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw = self.device.create_buffer(&descriptor);
        self.taken.fetch_add(size, Ordering::Relaxed);
        let buffer = Buffer { raw, taken: self.taken.clone() };
        if let Some(report) = self.device.generate_allocator_report() {
            self.peak.note(report.total_allocated_bytes);
        }
        match pollster::block_on(scope.pop()) {
            Some(_) => Err(self.does_not_fit(size, label)),
            None => self.check().map(|()| buffer),
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace<wgpu::SubmissionIndex>> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work that one submission may have, see [`pace`](super::pace).
    pub(super) fn budget(&self) -> u64 {
        self.pace().budget()
    }

    /// Hands over commands, which end with [`Tally::count`] and have so much work, and waits until the device is not too
    /// far behind.
    pub(super) fn submit(&self, commands: wgpu::CommandBuffer, work: u64) {
        let commands = Some(commands).filter(|_| self.tally.submitted());
        let index = self.queue.submit(commands);
        self.pace().submitted(index, work, Instant::now());
        self.settle(false);
    }

    /// Waits for submissions of which too many are pending, or for all.
    fn settle(&self, all: bool) {
        loop {
            let Some(index) = self.pace().awaited(all) else { return };
            // What goes wrong is reported as a fault, too.
            drop(self.device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None }));
            self.pace().done(Instant::now());
        }
    }

    /// Copies bytes of a buffer to the host, once the device has done everything enqueued.
    ///
    /// # Errors
    /// If the device is lost, or has not done some of it.
    pub(super) fn fetch(&self, buffer: &wgpu::Buffer, start: u64, bytes: &mut [u8]) -> Result<()> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let len = bytes.len() as u64;
        let staging = self.buffer("staging", len + Tally::BYTES, usage)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, start, &staging, 0, len);
        encoder.copy_buffer_to_buffer(&self.tally.done, 0, &staging, len, Tally::BYTES);
        self.queue.submit([encoder.finish()]);
        let (sender, mapped) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
        self.wait()?;
        let failed = |found: String| self.failed(found);
        mapped.recv().map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        let view = staging.get_mapped_range(..len + Tally::BYTES).map_err(|e| failed(e.to_string()))?;
        let (values, done) = view.split_at(bytes.len());
        match self.tally.missing(bytemuck::pod_read_unaligned(done)) {
            0 => bytes.copy_from_slice(values),
            missing => return Err(self.gave_up(missing)),
        }
        Ok(())
    }

    /// The error of a device that has not done so many of the submissions that it was given.
    fn gave_up(&self, missing: u32) -> Error {
        Error::Device {
            wanted: self.info.name.clone(),
            found: format!(
                "the driver gave up {missing} of the submissions that it was given, so that results would be wrong"
            ),
            remedy:
                "run again with nothing else on this GPU; if it happens again try a smaller size, an updated driver, \
                     or `device cpu`"
                    .into(),
        }
    }

    /// Waits until the device has done everything enqueued.
    pub(super) fn wait(&self) -> Result<()> {
        self.settle(true);
        let done = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        done.map(drop).map_err(|e| self.failed(e.to_string()))
    }
}

impl Memory for Context {
    type Buffer = Arc<Buffer>;

    fn limit(&self) -> u64 {
        self.limits().max_buffer_size
    }

    fn free_bytes(&self) -> Result<u64> {
        self.check().map(|()| self.free())
    }

    fn does_not_fit(&self, need: u64, detail: &str) -> Error {
        Context::does_not_fit(self, need, detail)
    }

    fn allocate(&self, bytes: u64) -> Result<Arc<Buffer>> {
        self.buffer("weights", bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST).map(Arc::new)
    }

    fn window(&self) -> u64 {
        WINDOW
    }

    fn upload(&self, buffer: &Arc<Buffer>, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Result<()> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let most = len.max(staging.len());
        staging.resize(most, 0);
        fill(&mut staging[..len]);
        self.queue.write_buffer(buffer, at, &staging[..len]);
        Memory::wait(self)
    }

    fn order(&self) -> Result<()> {
        Ok(()) // a queue keeps its order
    }

    fn wait(&self) -> Result<()> {
        self.queue.submit([]);
        Context::wait(self)
    }
}
