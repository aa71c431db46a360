//! Files that are being written. A run that is killed leaves one behind, and the next run in the same folder removes it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::{Builder, NamedTempFile};

const PREFIX: &str = ".cascade-rt-";
/// Random characters that follow the prefix.
const RANDOM: usize = 6;

/// A file without a final name in `folder`. Its lock says that whoever writes it is still there.
///
/// # Errors
/// The error of the operating system.
pub(super) fn create(folder: &Path) -> io::Result<NamedTempFile> {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned()) {
        sweep(folder);
    }
    let open = |path: &Path| File::options().write(true).create_new(true).open(path);
    loop {
        let file = Builder::new().prefix(PREFIX).rand_bytes(RANDOM).make_in(folder, open)?;
        // Where a file system has no locks, no run can take it from another either.
        let _ = file.as_file().lock();
        // Before it was locked, another run may have taken it for one that was left behind.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes the files of runs that are gone. What cannot be looked at or removed is left alone.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = |name: &str| name.starts_with(PREFIX) && name.len() == PREFIX.len() + RANDOM;
        if entry.file_name().to_str().is_some_and(is_ours) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let path = entry.path();
            let is_left = File::options().write(true).open(&path).is_ok_and(|file| file.try_lock().is_ok());
            if is_left {
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_runs_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let kept = [".cascade-rt-notes", ".cascade-rt-", "cascade-rt-abcdef", ".cascade-rt-abcdefg", "a.png"];
        kept.iter()
            .chain(&[".cascade-rt-abcdef", ".cascade-rt-000000"])
            .for_each(|name| fs::write(at(name), "x").unwrap());
        fs::create_dir(at(".cascade-rt-folder")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("a.png", at(".cascade-rt-linked")).unwrap();
        let mine = create(folder.path()).unwrap();
        assert!(!at(".cascade-rt-abcdef").exists() && !at(".cascade-rt-000000").exists());
        assert!(kept.iter().chain(&[".cascade-rt-folder"]).all(|name| at(name).exists()));
        #[cfg(unix)]
        assert!(at(".cascade-rt-linked").is_symlink());
        // That of a run that goes on is locked.
        sweep(folder.path());
        assert!(mine.path().exists());
        let path = mine.path().to_owned();
        std::mem::forget(mine.into_temp_path());
        sweep(folder.path());
        assert!(!path.exists());
    }
}
