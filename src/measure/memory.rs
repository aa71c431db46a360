//! Memory of this process, where the system says.

use crate::backend::cpu::proc_field;

/// Forgets the peak so far, so that [`peak_bytes`] is that of what comes now.
pub fn reset_peak() {
    // Where this is refused, the peak is that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that was resident at once, mapped weights included as far as they were touched.
pub fn peak_bytes() -> Option<u64> {
    let kib = proc_field("/proc/self/status", "VmHWM")?;
    Some(kib.trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
