//! A driver that plays a GPU on the host, for tests: `kernels/host`.
//!
//! Where it checks, every launch is run twice, its threads upwards and downwards: the result must be the
//! same bits, and nothing but the result and the memory that passes share may change.
#![allow(unsafe_code, reason = "kernels are C++ and write to memory by address")]

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char};
use std::rc::{Rc, Weak};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::args::Args;
use super::driver::{Driver, Geometry};
use crate::backend::weights::Memory;
use crate::backend::{Device, Kind};
use crate::error::{Error, Result};
use crate::registry::Caps;

unsafe extern "C" {
    /// `kernels/host/device.cpp`. Null, or what went wrong.
    fn cascade_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared: u32,
        args: *const Args,
        downwards: bool,
    ) -> *const c_char;
}

/// Bytes that begin where a GPU's allocations may.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(256))]
struct Line([u32; 64]);

/// Lines before and after each piece of memory, which nobody may change.
const GUARD: usize = 64;

/// Their bytes.
const OFFSET: usize = GUARD * size_of::<Line>();

/// A piece of the device's memory. Kernels write to it by address, one launch at a time.
#[derive(Debug)]
pub(super) struct Allocation(Box<[UnsafeCell<Line>]>);

impl Allocation {
    fn new(bytes: u64) -> Self {
        // NaN, so that nothing counts on zeros; each another one, so that copying it is seen, and signalling,
        // so that computing with it is.
        let nan = |i: usize| 0xff80_0001 | ((i as u32 * 2) & 0x003f_ffff);
        let line = |l: usize| UnsafeCell::new(Line(std::array::from_fn(|i| nan(l * 64 + i))));
        Self((0..bytes.div_ceil(256) as usize + 2 * GUARD).map(line).collect())
    }

    /// Where its own bytes begin.
    fn address(&self) -> u64 {
        self.0[GUARD..].as_ptr() as u64
    }

    /// All its bytes now, and those of the guards.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; size_of_val(&*self.0)];
        // SAFETY: the allocation has as many bytes, and nobody writes: launches are over when they
        // return, and neither `Emulated` nor this type leaves the thread.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr().cast(), bytes.as_mut_ptr(), bytes.len()) };
        bytes
    }

    /// Copies `bytes` to offset `at`, from the first guard on.
    fn fill(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= size_of_val(&*self.0), "the copy ends inside the buffer");
        let to = self.0.as_ptr() as *mut u8;
        // SAFETY: as the line above says; and the cells may be written through a shared reference.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(at), bytes.len()) };
    }
}

/// A launch that can be repeated.
type Launch = (CString, Geometry, Args);

/// The player.
pub(super) struct Emulated {
    device: Device,
    /// Whether launches are run in both orders and compared.
    checks: bool,
    buffers: Mutex<Vec<Weak<Allocation>>>,
    /// What is being recorded, if anything is.
    recording: Mutex<Option<Vec<Launch>>>,
}

impl Emulated {
    /// A device that can do this.
    pub(super) fn new(caps: Caps, checks: bool) -> Self {
        let name = "a GPU played by the host, for tests".into();
        let device = super::describe(name, Kind::Software, caps, crate::backend::cpu::available_memory());
        Self { device, checks, buffers: Mutex::default(), recording: Mutex::default() }
    }

    fn buffers(&self) -> Vec<Rc<Allocation>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Launch>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, kernel: &CStr, what: &str) -> Error {
        Error::Device {
            wanted: self.device.name.clone(),
            found: format!("{}: {what}", kernel.to_string_lossy()),
            remedy: "this is a fault of the kernel".into(),
        }
    }

    fn run(&self, (name, geometry, args): &Launch, downwards: bool) -> Result<()> {
        let Geometry { grid, threads, shared } = *geometry;
        // SAFETY: every address in `args` is that of a living buffer of this driver, or 0 where there is
        // no operand: `CudaProgram`, the only maker of `Args`, holds them. That a kernel stays inside
        // them is what tests are for.
        let fault = unsafe { cascade_launch(name.as_ptr(), grid.as_ptr(), threads, shared, args, downwards) };
        if fault.is_null() {
            return Ok(());
        }
        // SAFETY: faults are literals of the C++ side.
        let fault = unsafe { CStr::from_ptr(fault) };
        Err(self.fault(name, &fault.to_string_lossy()))
    }

    fn play(&self, launch: &Launch) -> Result<()> {
        if !self.checks {
            return self.run(launch, false);
        }
        let (name, _, args) = launch;
        let buffers = self.buffers();
        let before: Vec<Vec<u8>> = buffers.iter().map(|b| b.bytes()).collect();
        self.run(launch, false)?;
        let upwards: Vec<Vec<u8>> = buffers.iter().map(|b| b.bytes()).collect();
        buffers.iter().zip(&before).for_each(|(buffer, bytes)| buffer.fill(0, bytes));
        self.run(launch, true)?;
        for ((buffer, before), upwards) in buffers.iter().zip(&before).zip(&upwards) {
            let after = buffer.bytes();
            if after != *upwards {
                return Err(self.fault(name, "the result depends on the order of the threads"));
            }
            let start = buffer.address() - OFFSET as u64;
            let shared = buffer.address() == args.scratch();
            let own = OFFSET..after.len() - OFFSET;
            let may = |i: usize| args.result().contains(&(start + i as u64)) || shared && own.contains(&i);
            if (0..after.len()).any(|i| after[i] != before[i] && !may(i)) {
                return Err(self.fault(name, "writes outside of its result"));
            }
        }
        Ok(())
    }
}

impl Memory for Emulated {
    type Buffer = Rc<Allocation>;

    fn limit(&self) -> u64 {
        u64::MAX
    }

    fn allocate(&self, bytes: u64) -> Result<Rc<Allocation>> {
        let allocation = Rc::new(Allocation::new(bytes));
        let mut all = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|buffer| buffer.strong_count() > 0);
        all.push(Rc::downgrade(&allocation));
        Ok(allocation)
    }

    fn copy(&self, buffer: &Rc<Allocation>, at: u64, bytes: &[u8]) -> Result<()> {
        buffer.fill(OFFSET + at as usize, bytes);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

impl Driver for Emulated {
    type Function = CString;
    type Graph = Vec<Launch>;

    fn device(&self) -> &Device {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    fn address(&self, buffer: &Rc<Allocation>) -> u64 {
        buffer.address()
    }

    fn read(&self, buffer: &Rc<Allocation>, at: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&buffer.bytes()[OFFSET + at as usize..][..bytes.len()]);
        Ok(())
    }

    fn load(&self, _: &str, entries: &[&str], _: u32) -> Result<Rc<[CString]>> {
        Ok(entries.iter().map(|name| CString::new(*name).expect("names have no zero bytes")).collect())
    }

    fn launch(&self, function: &CString, geometry: Geometry, args: &Args) -> Result<()> {
        let launch = (function.clone(), geometry, *args);
        match self.recording().as_mut() {
            Some(recorded) => {
                recorded.push(launch);
                Ok(())
            }
            None => self.play(&launch),
        }
    }

    fn record(&self, launches: impl FnOnce() -> Result<()>) -> Result<Vec<Launch>> {
        *self.recording() = Some(Vec::new());
        let done = launches();
        let recorded = self.recording().take().unwrap_or_default();
        done.map(|()| recorded)
    }

    fn time(&self, launches: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let start = Instant::now();
        launches().map(|()| start.elapsed())
    }

    fn replay(&self, graph: &Vec<Launch>) -> Result<()> {
        graph.iter().try_for_each(|launch| self.play(launch))
    }
}
