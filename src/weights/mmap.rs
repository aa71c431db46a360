//! Read-only memory maps, and what happens when a mapped file shrinks.
//!
//! The only file of the crate, besides the CUDA launch code, that may use
//! `unsafe`.
#![allow(unsafe_code, reason = "mapping a file and handling SIGBUS cannot be expressed safely")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// A file mapped into memory, read-only. Pages are read from disk when touched.
pub struct Map {
    path: PathBuf,
    map: Mmap,
}

impl Map {
    /// Maps a regular file that is not empty.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] if there is no such file, [`Error::Model`] if it
    /// is a folder, a device or empty, [`Error::Disk`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |found: &str| Error::Model {
            path: path.to_owned(),
            expected: "a safetensors file".to_owned(),
            found: found.to_owned(),
        };
        let disk = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::ModelMissing {
                path: path.to_owned(),
                missing: "weights file".to_owned(),
                remedy: "check the path, or download the model again".to_owned(),
            },
            _ => Error::Disk { path: path.to_owned(), action: "read", source },
        };

        // Asked before opening: opening a named pipe would wait for a writer.
        let kind = fs::metadata(path).map_err(disk)?;
        if kind.is_dir() {
            return Err(wrong("a folder; give the file inside it"));
        }
        if !kind.is_file() {
            return Err(wrong("something that is not a regular file"));
        }
        if kind.len() == 0 {
            return Err(wrong("an empty file; download it again"));
        }
        let file = File::open(path).map_err(disk)?;

        // SAFETY: the map is private to this type, read-only, and its length was
        // fixed here. What no check can rule out is another process writing to
        // the file. Rewritten bytes give other numbers: every bit pattern is a
        // valid element, and the header is parsed once, from a copy of it. A
        // shrunken file raises SIGBUS, see `install_sigbus_handler`.
        let map = unsafe { Mmap::map(&file) }.map_err(disk)?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// The mapped file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Bytes for Map {
    fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// From now on, a mapped file that shrinks ends the process with a message on
/// stderr and exit code 3 instead of a bare `SIGBUS`. Call it once, in `main`.
///
/// Does nothing where files under a map cannot shrink (Windows).
///
/// # Errors
/// The system's word if the handler cannot be installed.
pub fn install_sigbus_handler() -> io::Result<()> {
    #[cfg(unix)]
    {
        use signal_hook::{consts::SIGBUS, low_level};
        use std::io::Write;
        use std::os::fd::AsFd;

        // Its own descriptor: `io::stderr()` takes a lock, which a handler must not.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let report = move || {
            // Nothing can be done about a failed write here.
            let _ = (&stderr).write_all(SHRUNK.as_bytes());
            low_level::exit(3);
        };
        // SAFETY: `report` is async-signal-safe: `write(2)` of a constant to a
        // descriptor that stays open, then `_exit(2)`. It neither allocates nor
        // locks, and does not return to the faulting instruction.
        unsafe { low_level::register(SIGBUS, report) }?;
    }
    Ok(())
}

/// What the SIGBUS handler prints.
#[cfg(unix)]
const SHRUNK: &str = "error: a model file became shorter while it was in use (or its disk failed); \
expected: model files do not change during a run; \
replace a model file by renaming a finished copy over it, then run again\n";
