//! Memory use of this process, on systems that report it.

use crate::backend::cpu::memory::proc_kib;

/// Resets the peak, so that [`peak_bytes`] returns the peak from now on.
pub fn reset_peak() {
    // Where the system does not permit this, the peak since the start of the process is reported.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak resident memory, which includes those pages of mapped weights that were accessed.
pub fn peak_bytes() -> Option<u64> {
    proc_kib("/proc/self/status", "VmHWM")
}

/// Resident memory now, which includes those pages of mapped weights that were accessed.
pub fn resident_bytes() -> Option<u64> {
    proc_kib("/proc/self/status", "VmRSS")
}
