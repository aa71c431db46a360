//! Memory of this process, where the system says.

use crate::backend::cpu::memory::proc_kib;

/// Forgets the peak so far, so that [`peak_bytes`] is that of what comes now.
pub fn reset_peak() {
    // Where this is refused, the peak is that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that was resident at once, mapped weights included as far as they were touched.
pub fn peak_bytes() -> Option<u64> {
    proc_kib("/proc/self/status", "VmHWM")
}
