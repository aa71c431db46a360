//! Output files: each appears whole or not at all, and whether it can be written is known before any work is done.

mod unfinished;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

static OUTPUT: Mutex<()> = Mutex::new(());

/// Held while a file is being put in place. Whoever ends the process early takes
/// it first, and leaves no temporary file behind.
pub fn output_guard() -> MutexGuard<'static, ()> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a file that appears whole or not at all: to a temporary name in the
/// same folder, to the disk, then renamed. Devices and pipes are written directly.
///
/// # Errors
/// [`Error::Request`] if the file is there already and `force` is not given;
/// [`Error::Disk`] if writing fails, and then nothing is left behind.
pub fn write_atomically(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    if is_device(path, force)? {
        // Without the guard: nothing is left behind, and a pipe may wait for its reader for ever.
        return fs::write(path, bytes).map_err(|e| disk(path, "write", e));
    }
    let _guard = output_guard();
    let mut file = temporary(path, folder_of(path))?;
    file.as_file_mut().write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| disk(path, "write", e))?;
    match if force { file.persist(path) } else { file.persist_noclobber(path) } {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Err(exists(path)),
        Err(e) => Err(disk(path, "rename to", e.error)),
    }
}

/// Finds out, before any work is done, whether [`write_atomically`] could write
/// this file. Leaves nothing behind; folders that are still missing are fine if
/// `make_folders` says that they will be made.
///
/// # Errors
/// As [`write_atomically`].
pub fn check_writable(path: &Path, force: bool, make_folders: bool) -> Result<()> {
    if is_device(path, force)? {
        return Ok(());
    }
    if let Err(e) = fs::symlink_metadata(path)
        && e.kind() == ErrorKind::InvalidFilename
    {
        return Err(disk(path, "create", e));
    }
    let _guard = output_guard();
    let mut folder = folder_of(path);
    while make_folders && fs::symlink_metadata(folder).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        folder = folder_of(folder);
    }
    temporary(path, folder).map(drop)
}

/// Whether `path` is to be written directly; an error if it must not be written.
fn is_device(path: &Path, force: bool) -> Result<bool> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(disk(path, "write", ErrorKind::IsADirectory.into())),
        Ok(there) if !there.is_file() => Ok(true),
        Ok(_) if !force => Err(exists(path)),
        // A link to nowhere is there, too.
        Err(_) if !force && path.is_symlink() => Err(exists(path)),
        _ => Ok(false),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file without a final name in `folder`; `path` is what it will become.
fn temporary(path: &Path, folder: &Path) -> Result<tempfile::NamedTempFile> {
    unfinished::create(folder).map_err(|e| disk(path, "create", e))
}

fn exists(path: &Path) -> Error {
    Error::Request {
        what: path.display().to_string(),
        expected: "a new file, or `force` to replace one".into(),
        found: "one that exists".into(),
    }
}

fn disk(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Disk { path: path.to_owned(), action, source }
}
