//! A device's memory for tests, which counts.
#![cfg(test)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::super::{Memory, Store};
use super::ROW;
use crate::error::{Error, Result};

/// Bytes on their way to an offset of a buffer.
type Upload = (Weak<Buffer>, u64, Vec<u8>);

/// Memory of so many bytes, whose uploads arrive when they are waited for and no sooner.
pub(super) struct Fake {
    capacity: u64,
    /// Bytes that it says are free, but does not give.
    pub(super) hidden: AtomicU64,
    pub(super) taken: Arc<AtomicU64>,
    /// Whether work that reads weights may still be under way.
    pub(super) busy: Arc<AtomicBool>,
    pub(super) uploaded: AtomicU64,
    under_way: Mutex<Vec<Upload>>,
}

pub(super) struct Buffer {
    pub(super) bytes: Mutex<Vec<u8>>,
    taken: Arc<AtomicU64>,
    /// That of the memory, if work reads the buffer and there is still a device to do it.
    busy: Weak<AtomicBool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let busy = self.busy.upgrade().is_some_and(|busy| busy.load(Relaxed));
        assert!(!busy || std::thread::panicking(), "work may be reading what is dropped");
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.taken.fetch_sub(bytes as u64, Relaxed);
    }
}

impl Fake {
    pub(super) fn store(capacity: u64) -> Arc<Store<Fake>> {
        let (hidden, taken, busy, uploaded, under_way) = Default::default();
        Store::new(Arc::new(Fake { capacity, hidden, taken, busy, uploaded, under_way }))
    }

    pub(super) fn buffer(&self, bytes: u64, busy: Weak<AtomicBool>) -> Result<Arc<Buffer>> {
        if self.taken.load(Relaxed) + self.hidden.load(Relaxed) + bytes > self.capacity {
            return Err(self.does_not_fit(bytes, "refused"));
        }
        self.taken.fetch_add(bytes, Relaxed);
        Ok(Arc::new(Buffer { bytes: Mutex::new(vec![0xee; bytes as usize]), taken: self.taken.clone(), busy }))
    }
}

impl Memory for Fake {
    type Buffer = Arc<Buffer>;

    fn limit(&self) -> u64 {
        30 * ROW
    }
    fn free_bytes(&self) -> Result<u64> {
        Ok(self.capacity - self.taken.load(Relaxed))
    }
    fn does_not_fit(&self, need: u64, detail: &str) -> Error {
        let (device, detail, remedy) = ("fake".into(), format!("{need} bytes: {detail}"), String::new());
        Error::DoesNotFit { device, free_mib: 0, need_mib: 0, detail, remedy }
    }
    fn window(&self) -> u64 {
        3 * ROW
    }
    fn allocate(&self, bytes: u64) -> Result<Arc<Buffer>> {
        assert!(bytes <= self.limit());
        self.buffer(bytes, Arc::downgrade(&self.busy))
    }
    fn upload(&self, buffer: &Arc<Buffer>, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Result<()> {
        let mut bytes = vec![0xdd; len];
        fill(&mut bytes);
        self.uploaded.fetch_add(len as u64, Relaxed);
        self.under_way.lock().unwrap().push((Arc::downgrade(buffer), at, bytes));
        Ok(())
    }
    fn order(&self) -> Result<()> {
        for (buffer, at, bytes) in self.under_way.lock().unwrap().drain(..) {
            let Some(buffer) = buffer.upgrade() else { continue };
            buffer.bytes.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
    fn wait(&self) -> Result<()> {
        self.busy.store(false, Relaxed);
        self.order()
    }
}
