//! Read-only memory maps, and the handling of files that shrink while they are mapped.
#![allow(unsafe_code, reason = "mapping a file and handling SIGBUS cannot be expressed safely")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::files::{self, unreadable};
use crate::tensor::Bytes;

/// A file mapped into memory, read-only. Its pages are read from disk when first accessed.
pub struct Map {
    /// Keeps the entry in [`OPEN`] valid.
    _file: Arc<Open>,
    map: Mmap,
}

/// A mapped file, kept open so that its current length can be queried.
#[cfg_attr(not(unix), allow(dead_code, reason = "only the SIGBUS handler reads the fields"))]
struct Open {
    path: PathBuf,
    file: File,
    /// Length in bytes when it was mapped.
    len: u64,
}

/// All mapped files, so that the SIGBUS handler can name the one that shrank.
static OPEN: Mutex<Vec<Weak<Open>>> = Mutex::new(Vec::new());

impl Map {
    /// Maps a regular file that is not empty.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] if there is no such file, [`Error::Model`] if it
    /// is a folder, a device or empty, [`Error::Disk`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        const WHAT: &str = "weights file";
        const EXPECTED: &str = "a safetensors file";
        let file = files::open(path, WHAT, EXPECTED)?;
        let disk = |source: io::Error| unreadable(path, WHAT, source);
        if file.metadata().map_err(disk)?.len() == 0 {
            return Err(Error::Model {
                path: path.to_owned(),
                expected: EXPECTED.to_owned(),
                found: "an empty file; download it again".to_owned(),
            });
        }

        // SAFETY: the map is read-only, private to this type, and has a fixed length.
        // No check can rule out that another process writes to the file. If it
        // changes bytes, weights get other values, which is sound: every bit pattern is a
        // valid element, and the header is parsed once, from a copy. If it truncates
        // the file, an access raises SIGBUS; see `install_sigbus_handler`.
        let map = unsafe { Mmap::map(&file) }.map_err(disk)?;
        let file = Arc::new(Open { path: path.to_owned(), file, len: map.len() as u64 });
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&file));
        Ok(Self { _file: file, map })
    }
}

impl Bytes for Map {
    fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// Installs a handler that, if a mapped file shrinks, ends the process with a message on
/// stderr and exit code 3 instead of a bare `SIGBUS`. Call it once, in `main`.
///
/// Does nothing on Windows, where a mapped file cannot shrink.
///
/// # Errors
/// The error of the operating system if stderr cannot be duplicated.
pub fn install_sigbus_handler() -> io::Result<()> {
    #[cfg(unix)]
    sigbus::install()?;
    Ok(())
}

#[cfg(unix)]
mod sigbus {
    use std::ffi::{OsStr, c_int};
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::sys::signal::{SigHandler, Signal, signal};
    use signal_hook::low_level;

    use super::OPEN;

    /// A file descriptor of the handler's own, because `io::stderr()` takes a lock.
    static STDERR: OnceLock<File> = OnceLock::new();

    pub fn install() -> io::Result<()> {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        STDERR.get_or_init(|| stderr);
        // `signal(2)` is called directly because crates that register handlers call the previous handler first. That
        // of the Rust runtime restores the default action, and if a second thread faults at that moment, the process
        // ends without a message. With 8 reading threads, this happened in about half of all runs.
        // SAFETY: `report` is async-signal-safe: it only accesses atomics, tries a
        // lock without waiting, and makes the system calls fstat, write, sched_yield and
        // _exit. It neither allocates nor frees, and never returns to the faulting instruction.
        unsafe { signal(Signal::SIGBUS, SigHandler::Handler(report))? };
        Ok(())
    }

    extern "C" fn report(_: c_int) {
        static ENTERED: AtomicBool = AtomicBool::new(false);
        while ENTERED.swap(true, Ordering::Relaxed) {
            std::thread::yield_now(); // another thread is about to end the process
        }
        let say = |text: &OsStr| {
            // If this write fails, there is nothing else to do.
            let _ = STDERR.get().map(|mut stderr| stderr.write_all(text.as_bytes()));
        };
        say(OsStr::new("error: "));
        if let Ok(open) = OPEN.try_lock() {
            let shrunk = |file: &super::Open| file.file.metadata().is_ok_and(|now| now.len() < file.len);
            // The reference is never dropped, because dropping the last one would free memory.
            for file in open.iter().filter_map(|file| file.upgrade().map(std::mem::ManuallyDrop::new)) {
                if shrunk(&file) {
                    say(file.path.as_os_str());
                    say(OsStr::new(": "));
                }
            }
        }
        say(OsStr::new(
            "expected a model file that does not change while in use, found it truncated (or its disk failing); \
             to replace a model file, rename a complete copy over it; then run again\n",
        ));
        low_level::exit(3);
    }
}
