//! A driver that emulates a GPU on the host, for tests: `kernels/host`.
//!
//! If it `checks`, every launch is run twice, with its threads in ascending and in descending order: the result must be
//! the same bits, and nothing but the result and the memory that passes share may change.
#![allow(unsafe_code, reason = "kernels are C++ and write to memory by address")]

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{CStr, CString, c_char};
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::args::Args;
use super::code::Capability;
use super::driver::{Driver, Geometry, Image, Loader, Needs};
use super::fault::{Fault, Outcome};
use super::tensor_map::{Maps, TensorMap};
use crate::backend::{Device, Kind};
use crate::registry::Caps;
use crate::registry::cuda::H100_SMS;

unsafe extern "C" {
    /// `kernels/host/device.cpp`. Null, or what went wrong.
    fn cascade_launch(
        name: *const c_char,
        grid: *const u32,
        cluster: *const u32,
        threads: u32,
        shared: u32,
        args: *const Args,
        maps: *const Maps,
        downwards: bool,
    ) -> *const c_char;
}

/// The type of `cascade_launch`.
#[rustfmt::skip]
type Emulate = unsafe extern "C" fn(
    *const c_char, *const u32, *const u32, u32, u32, *const Args, *const Maps, bool,
) -> *const c_char;

/// The emulator and its kernels: those of this program, or of the library that `CASCADE_HOST_KERNELS` names. So kernels are
/// edited, broken on purpose or built with a sanitizer, and only their own file is compiled; see `tools/host-kernels`.
static EMULATE: LazyLock<Emulate> = LazyLock::new(|| {
    let Some(path) = std::env::var_os("CASCADE_HOST_KERNELS") else { return cascade_launch };
    // SAFETY: the developer names the library, which runs with what the test may do, as the tests' own C++ does.
    let library = unsafe { libloading::Library::new(&path) };
    let library = library.unwrap_or_else(|e| panic!("CASCADE_HOST_KERNELS={}: {e}", path.display()));
    // SAFETY: the library is made of the same `kernels/host`, so this is its type.
    let emulate = unsafe { library.get::<Emulate>(b"cascade_launch").map(|emulate| *emulate) };
    std::mem::forget(library); // it stays as long as the program
    emulate.unwrap_or_else(|e| panic!("CASCADE_HOST_KERNELS={}: {e}", path.display()))
});

/// 256 bytes, aligned as a GPU's allocations are.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(256))]
struct Line([u32; 64]);

/// Lines before and after each allocation, which nobody may change.
const GUARD: usize = 64;

/// Bytes of a guard.
const OFFSET: usize = GUARD * size_of::<Line>();

/// How often the device is still busy when asked after a replay.
const BUSY: usize = 2;

/// An allocation of the device's memory. Kernels write to it by address, one launch at a time.
#[derive(Debug)]
pub(super) struct Allocation {
    lines: Box<[UnsafeCell<Line>]>,
    /// Bytes asked for.
    len: u64,
}

// SAFETY: its bytes are read and written by methods of the `Emulated` that made it alone, and by kernels while one of them
// runs. `Emulated` is not `Sync`: one thread at a time is in its methods.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn new(bytes: u64) -> Self {
        // NaN, so that nothing relies on zeros. Each is a different one, so that copying it is noticed, and a signalling
        // one, so that computing with it is.
        let nan = |i: usize| 0xff80_0001 | ((i as u32 * 2) & 0x003f_ffff);
        let line = |l: usize| UnsafeCell::new(Line(std::array::from_fn(|i| nan(l * 64 + i))));
        Self { lines: (0..bytes.div_ceil(256) as usize + 2 * GUARD).map(line).collect(), len: bytes }
    }

    /// Where its own bytes begin.
    fn address(&self) -> u64 {
        self.lines[GUARD..].as_ptr() as u64
    }

    /// All its bytes now, and those of the guards.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; size_of_val(&*self.lines)];
        // SAFETY: the allocation has as many bytes, and nobody writes: launches are over when they
        // return, and this thread alone is in a method of `Emulated`.
        unsafe { std::ptr::copy_nonoverlapping(self.lines.as_ptr().cast(), bytes.as_mut_ptr(), bytes.len()) };
        bytes
    }

    /// Copies `bytes` to offset `at`, from the first guard on.
    fn fill(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= size_of_val(&*self.lines), "the copy ends inside the buffer");
        let to = self.lines.as_ptr() as *mut u8;
        // SAFETY: as the line above says; and the cells may be written through a shared reference.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(at), bytes.len()) };
    }
}

/// A kernel of a module.
#[derive(Debug, Clone)]
pub(super) struct Function {
    name: CString,
    /// Whether it waits for the launch before.
    waits: bool,
    needs: Needs,
}

/// What finds kernels by name; they are part of this program, whatever image of them is loaded.
#[derive(Debug, Clone)]
pub(super) struct Kernels {
    pub(super) capability: Capability,
}

impl Loader for Kernels {
    type Function = Function;

    fn capability(&self) -> Capability {
        self.capability
    }

    fn load(&self, image: Image<'_>, entries: &[&str], needs: Needs) -> Outcome<Arc<[Function]>> {
        let function = |entry: &&str| {
            let waits = match image {
                Image::Ptx(ptx) => {
                    let body = ptx.split(&format!(".entry {entry}(")).nth(1);
                    let body = body.and_then(|rest| rest.split(".entry ").next());
                    body.map(|body| body.contains("griddepcontrol.wait;"))
                }
                // Made of PTX for this GPU, which tests/ptx.rs looks at.
                Image::Cubin(cubin) => {
                    let section = format!(".text.{entry}\0");
                    let has_it = cubin.windows(section.len()).any(|name| name == section.as_bytes());
                    has_it.then_some(self.capability >= (9, 0))
                }
            };
            let name = CString::new(*entry).expect("names have no zero bytes");
            let missing = || Fault::Other(format!("named symbol not found: {entry}"), "");
            Ok(Function { name, waits: waits.ok_or_else(missing)?, needs })
        };
        entries.iter().map(function).collect()
    }
}

/// A launch that can be repeated.
type Launch = (CString, Geometry, Args, Option<Maps>);

/// Bytes on their way to offset `at` of an allocation.
struct Upload {
    /// Freeing it waits, as it does on a GPU.
    buffer: Weak<Allocation>,
    at: u64,
    bytes: Vec<u8>,
}

impl Upload {
    fn range(&self) -> Range<u64> {
        let start = self.buffer.upgrade().map_or(0, |buffer| buffer.address() + self.at);
        start..start + self.bytes.len() as u64
    }
}

/// The emulator.
pub(super) struct Emulated {
    device: Device,
    /// Whether launches are run in both orders and compared.
    checks: bool,
    buffers: Mutex<Vec<Weak<Allocation>>>,
    /// What is being recorded, if anything is.
    recording: Mutex<Option<Vec<Launch>>>,
    /// What has been uploaded and may not have arrived: it does when work waits for it, and no sooner.
    uploads: RefCell<Vec<Upload>>,
    busy: Cell<usize>,
}

impl Emulated {
    /// A device that can do this.
    pub(super) fn new(caps: Caps, checks: bool) -> Self {
        let name = "a GPU emulated on the host, for tests".into();
        let device = super::describe(name, Kind::Software, caps, H100_SMS, crate::backend::cpu::memory::available());
        let (buffers, recording, uploads, busy) = Default::default();
        Self { device, checks, buffers, recording, uploads, busy }
    }

    fn buffers(&self) -> Vec<Arc<Allocation>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Launch>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, kernel: &CStr, what: &str) -> Fault {
        Fault::Other(format!("{}: {what}", kernel.to_string_lossy()), "")
    }

    fn run(&self, (name, geometry, args, maps): &Launch, downwards: bool) -> Outcome<()> {
        let Geometry { grid, cluster, threads, shared } = *geometry;
        let maps = maps.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (name_at, grid, cluster) = (name.as_ptr(), grid.as_ptr(), cluster.as_ptr());
        let cascade_launch = *EMULATE;
        // SAFETY: every address in `args` and `maps` is that of a living buffer of this driver, or 0 where
        // there is no operand: `CudaProgram`, the only maker of `Args`, holds them. That a kernel stays
        // inside them is what tests are for. Kernels that take maps are rows with tiles, which have them.
        let fault = unsafe { cascade_launch(name_at, grid, cluster, threads, shared, args, maps, downwards) };
        if fault.is_null() {
            return Ok(());
        }
        // SAFETY: faults are literals of the C++ side.
        let fault = unsafe { CStr::from_ptr(fault) };
        Err(self.fault(name, &fault.to_string_lossy()))
    }

    fn emulate(&self, launch: &Launch) -> Outcome<()> {
        let (name, _, args, _) = launch;
        let under_way: Vec<_> = self.uploads.borrow().iter().map(Upload::range).collect();
        if args.operands().any(|read| under_way.iter().any(|to| read.start < to.end && to.start < read.end)) {
            return Err(self.fault(name, "reads what is still being uploaded"));
        }
        if !self.checks {
            return self.run(launch, false);
        }
        let buffers = self.buffers();
        let before: Vec<Vec<u8>> = buffers.iter().map(|b| b.bytes()).collect();
        self.run(launch, false)?;
        let upwards: Vec<Vec<u8>> = buffers.iter().map(|b| b.bytes()).collect();
        buffers.iter().zip(&before).for_each(|(buffer, bytes)| buffer.fill(0, bytes));
        self.run(launch, true)?;
        for ((buffer, before), upwards) in buffers.iter().zip(&before).zip(&upwards) {
            let after = buffer.bytes();
            let start = buffer.address() - OFFSET as u64;
            let shared = buffer.address() == args.scratch();
            // Blocks that count each other leave values in front of their counters that depend on which of them was last.
            let counters = args.counters().filter(|_| shared).map(|at| (at - start) as usize);
            if after[counters.unwrap_or(0)..] != upwards[counters.unwrap_or(0)..] {
                return Err(self.fault(name, "the result depends on the order of the threads"));
            }
            let own = OFFSET..counters.unwrap_or(after.len() - OFFSET);
            let may = |i: usize| args.result().contains(&(start + i as u64)) || shared && own.contains(&i);
            if (0..after.len()).any(|i| after[i] != before[i] && !may(i)) {
                return Err(self.fault(name, "writes outside of its result"));
            }
        }
        Ok(())
    }
}

impl Driver for Emulated {
    type Buffer = Arc<Allocation>;
    type Function = Function;
    type Loader = Kernels;
    type Graph = Vec<Launch>;

    /// Few, so that small weights take several.
    const WINDOW: u64 = 4 << 10;

    fn bind(&self) -> Outcome<()> {
        Ok(()) // any thread may call it
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    fn free_bytes(&self) -> Outcome<u64> {
        let taken: u64 = self.buffers().iter().map(|buffer| buffer.len).sum();
        Ok(self.device.free_bytes.saturating_sub(taken))
    }

    fn allocate(&self, bytes: u64) -> Outcome<Arc<Allocation>> {
        if bytes > self.free_bytes()? {
            return Err(Fault::OutOfMemory(bytes));
        }
        let allocation = Arc::new(Allocation::new(bytes));
        let mut all = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|buffer| buffer.strong_count() > 0);
        all.push(Arc::downgrade(&allocation));
        Ok(allocation)
    }

    fn address(buffer: &Arc<Allocation>) -> u64 {
        buffer.address()
    }

    fn upload(&self, buffer: &Arc<Allocation>, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Outcome<()> {
        // Staging memory holds what was there before.
        let mut bytes = vec![0xff; len];
        fill(&mut bytes);
        self.uploads.borrow_mut().push(Upload { buffer: Arc::downgrade(buffer), at, bytes });
        Ok(())
    }

    fn order(&self) -> Outcome<()> {
        for Upload { buffer, at, bytes } in self.uploads.take() {
            buffer.upgrade().inspect(|buffer| buffer.fill(OFFSET + at as usize, &bytes));
        }
        Ok(())
    }

    fn busy(&self, ahead: usize) -> Outcome<bool> {
        let left = self.busy.get();
        self.busy.set(left.saturating_sub(1));
        Ok(left > ahead)
    }

    fn write(&self, buffer: &Arc<Allocation>, at: u64, bytes: &[u8]) -> Outcome<()> {
        buffer.fill(OFFSET + at as usize, bytes);
        Ok(())
    }

    fn read(&self, buffer: &Arc<Allocation>, at: u64, bytes: &mut [u8]) -> Outcome<()> {
        bytes.copy_from_slice(&buffer.bytes()[OFFSET + at as usize..][..bytes.len()]);
        Ok(())
    }

    fn wait(&self) -> Outcome<()> {
        self.busy.set(0);
        self.order()
    }

    fn encode(&self, maps: &[TensorMap]) -> Outcome<Maps> {
        if let Some(why) = maps.iter().find_map(TensorMap::refused) {
            return Err(Fault::Other(format!("invalid argument: {why}"), ""));
        }
        Ok(bytemuck::pod_read_unaligned(bytemuck::cast_slice(maps)))
    }

    fn loader(&self) -> Kernels {
        // A GPU of these capabilities.
        let newer = [Caps::SM90A, Caps::DEPENDENT_LAUNCH].into_iter().any(|cap| self.device.caps.contains(cap));
        Kernels { capability: if newer { (9, 0) } else { (8, 0) } }
    }

    fn launch(
        &self,
        function: &Function,
        geometry: Geometry,
        args: &Args,
        maps: Option<&Maps>,
        dependent: bool,
    ) -> Outcome<()> {
        if dependent && !function.waits {
            return Err(self.fault(&function.name, "may begin before the launch before it is over, and does not wait"));
        }
        if geometry.shared > function.needs.shared {
            return Err(self.fault(&function.name, "is given more shared memory than it was loaded for"));
        }
        let launch = (function.name.clone(), geometry, *args, maps.copied());
        match self.recording().as_mut() {
            Some(recorded) => {
                recorded.push(launch);
                Ok(())
            }
            None => self.emulate(&launch),
        }
    }

    fn record(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Vec<Launch>> {
        *self.recording() = Some(Vec::new());
        let done = launches();
        let recorded = self.recording().take().unwrap_or_default();
        done.map(|()| recorded)
    }

    fn time(&self, launches: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
        let start = Instant::now();
        launches().map(|()| start.elapsed())
    }

    fn replay(&self, graph: &Vec<Launch>) -> Outcome<()> {
        graph.iter().try_for_each(|launch| self.emulate(launch))?;
        self.busy.set(BUSY);
        Ok(())
    }
}
