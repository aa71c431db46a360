//! A device and its queue, with everything that can go wrong turned into errors.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::driver::Driver;
use super::fault::{Fault, Outcome};
use crate::backend::weights::Memory;
use crate::backend::{Device, Peak};
use crate::error::{Error, Result};

/// An opened device.
pub(super) struct Context<D> {
    /// Locked for each call, so that programs of one device may belong to different threads.
    driver: Mutex<D>,
    device: Device,
    /// What made the device useless, once something has.
    lost: OnceLock<Fault>,
    /// Memory that is no longer free since the device was opened.
    pub(super) peak: Peak,
}

impl<D: Driver> Context<D> {
    pub(super) fn new(driver: D) -> Self {
        let device = driver.device().clone();
        Self { driver: Mutex::new(driver), device, lost: OnceLock::new(), peak: Peak::default() }
    }

    /// The device.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The driver, for as long as the guard lives.
    pub(super) fn driver(&self) -> MutexGuard<'_, D> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the driver, which is locked until `call` returns. Once the device is lost, every call gives the fault that
    /// lost it: what a driver reports after that has nothing to do with the call.
    ///
    /// # Errors
    /// [`Error::Device`] or [`Error::DoesNotFit`].
    pub(super) fn call<T>(&self, call: impl FnOnce(&D) -> Outcome<T>) -> Result<T> {
        let done = match self.lost.get() {
            Some(lost) => Err(lost.clone()),
            None => {
                let driver = self.driver();
                driver.bind().and_then(|()| call(&driver))
            }
        };
        self.result(done)
    }

    /// What a call of the driver gave, for whoever asked for it. A fault that lost the device is remembered.
    ///
    /// # Errors
    /// As for [`call`](Self::call).
    pub(super) fn result<T>(&self, done: Outcome<T>) -> Result<T> {
        done.map_err(|fault| {
            if matches!(fault, Fault::Lost(..)) {
                self.lost.get_or_init(|| fault.clone());
            }
            self.error(fault)
        })
    }

    fn error(&self, fault: Fault) -> Error {
        let device = |found: String, remedy: &str| Error::Device {
            wanted: self.device.name.clone(),
            found,
            remedy: remedy.into(),
        };
        match fault {
            Fault::OutOfMemory(bytes) => {
                self.does_not_fit(bytes, "in one piece, which the driver refused; others may use the GPU too")
            }
            Fault::Lost(said, remedy) => device(format!("the device was lost ({said})"), remedy),
            Fault::Refused(said) => {
                device(format!("the driver does not take the kernels: {said}"), "update it, or use `device cpu`")
            }
            Fault::Other(said, remedy) => device(said, remedy),
        }
    }

    /// The error of a request for `need` bytes that cannot be met.
    pub(super) fn does_not_fit(&self, need: u64, detail: &str) -> Error {
        Error::DoesNotFit {
            device: self.device.name.clone(),
            free_mib: self.driver().free_bytes().unwrap_or(0) >> 20,
            need_mib: need.div_ceil(1 << 20),
            detail: detail.into(),
            remedy: "try a smaller `width` and `height`, fewer images, or `device cpu`".into(),
        }
    }
}

impl<D: Driver> Memory for Context<D> {
    type Buffer = D::Buffer;

    fn limit(&self) -> u64 {
        u64::MAX
    }

    fn window(&self) -> u64 {
        D::WINDOW
    }

    fn free_bytes(&self) -> Result<u64> {
        self.call(D::free_bytes)
    }

    fn does_not_fit(&self, need: u64, detail: &str) -> Error {
        Context::does_not_fit(self, need, detail)
    }

    fn allocate(&self, bytes: u64) -> Result<D::Buffer> {
        self.call(|driver| {
            let buffer = driver.allocate(bytes)?;
            self.peak.note(self.device.free_bytes.saturating_sub(driver.free_bytes()?));
            Ok(buffer)
        })
    }

    fn upload(&self, buffer: &D::Buffer, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Result<()> {
        self.call(|driver| driver.upload(buffer, at, len, fill))
    }

    fn order(&self) -> Result<()> {
        self.call(D::order)
    }

    fn wait(&self) -> Result<()> {
        self.call(D::wait)
    }
}
