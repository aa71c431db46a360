//! Output files: each appears whole or not at all, and whether it can be written is known before any work is done.
//!
//! A path may lead to its file over links, `..`, another name of the same file, or other letter case. What is
//! compared and written here is the file, see [`Target`] and [`Identity`].

mod unfinished;

use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

static OUTPUT: Mutex<()> = Mutex::new(());

/// Held while a file is being put in place. Whoever ends the process early takes
/// it first, and leaves no temporary file behind.
pub fn output_guard() -> MutexGuard<'static, ()> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file, or a name that is free; if the path is a link, what it leads to.
    File(PathBuf),
    /// The standard output of this process, by one of the names that the system has for it.
    Stdout,
    /// A device, a pipe, or another open file of this process. It is written directly.
    Stream(PathBuf),
}

impl Target {
    /// Follows the links of `path`, also where they lead to nothing.
    ///
    /// # Errors
    /// [`Error::Disk`] if it leads to a folder, or in a circle.
    pub fn of(path: &Path) -> Result<Self> {
        // As many links as Linux follows.
        const MOST_LINKS: usize = 40;
        let mut at = path.to_owned();
        for _ in 0..=MOST_LINKS {
            match descriptor(&at) {
                Some(1) => return Ok(Target::Stdout),
                Some(_) => return Ok(Target::Stream(at)),
                None => {}
            }
            if let Ok(to) = fs::read_link(&at) {
                at = folder_of(&at).join(to);
                continue;
            }
            return match fs::metadata(&at) {
                Ok(there) if there.is_dir() => Err(disk(path, "write", ErrorKind::IsADirectory.into())),
                Ok(there) if !there.is_file() => Ok(Target::Stream(at)),
                _ => Ok(Target::File(at)),
            };
        }
        Err(disk(path, "write", std::io::Error::other("too many links")))
    }
}

/// The number of the open file of this process that a path names, like `/dev/fd/1` or `/proc/self/fd/1`.
fn descriptor(path: &Path) -> Option<u32> {
    let number = path.file_name()?.to_str()?.parse().ok()?;
    let folder = folder_of(path).canonicalize().ok()?;
    let own = ["/dev/fd", "/proc/self/fd"].iter().filter_map(|own| fs::canonicalize(own).ok());
    own.into_iter().any(|own| own == folder).then_some(number)
}

/// What a path names, however it is written: two paths to the same file are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A file that is there, by its device and number.
    #[cfg(unix)]
    There(u64, u64),
    /// A file that is not there yet, or any file where the system has no numbers: its real folder, and its name in
    /// lower case, because many file systems take `A.png` and `a.png` for the same file.
    Named(PathBuf),
}

impl Identity {
    /// Of what `path` leads to.
    pub fn of(path: &Path) -> Self {
        #[cfg(unix)]
        if let Ok(there) = fs::metadata(path) {
            use std::os::unix::fs::MetadataExt;
            return Identity::There(there.dev(), there.ino());
        }
        let path = match Target::of(path) {
            Ok(Target::File(path)) => path,
            _ => path.to_owned(),
        };
        let whole = std::path::absolute(&path).unwrap_or(path);
        let there = whole.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        let (above, mut real) = there.unwrap_or((Path::new(""), PathBuf::new()));
        for part in whole.strip_prefix(above).unwrap_or(&whole).components() {
            match part {
                Component::ParentDir => drop(real.pop()),
                part => real.push(part.as_os_str().to_string_lossy().to_lowercase()),
            }
        }
        Identity::Named(real)
    }
}

/// Writes a file that appears whole or not at all: to a temporary name in the
/// same folder, to the disk, then renamed. A link stays, and what it leads to is written; a file that is replaced
/// hands its permissions on. Standard output, devices and pipes are written directly.
///
/// # Errors
/// [`Error::Request`] if the file is there already and `force` is not given;
/// [`Error::Disk`] if writing fails, and then nothing is left behind.
pub fn write_atomically(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    write_in_pieces(path, force, |out| out.write_all(bytes).map_err(|e| disk(path, "write", e)))
}

/// The same for what `fill` writes, however much it is.
///
/// # Errors
/// As [`write_atomically`], and those of `fill`.
pub fn write_in_pieces(path: &Path, force: bool, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    // Streams without the guard: nothing is left behind, and a pipe may wait for its reader for ever.
    let file = match Target::of(path)? {
        Target::File(file) => file,
        Target::Stdout => {
            let mut out = std::io::stdout().lock();
            fill(&mut out)?;
            return out.flush().map_err(|e| disk(path, "write", e));
        }
        Target::Stream(stream) => {
            let mut stream = File::options().write(true).open(stream).map_err(|e| disk(path, "write", e))?;
            return fill(&mut stream);
        }
    };
    require_free(path, &file, force)?;
    let _guard = output_guard();
    let mut temporary = temporary(path, folder_of(&file))?;
    fill(temporary.as_file_mut())?;
    let finish = |whole: &mut File| {
        if let Ok(before) = fs::metadata(&file) {
            whole.set_permissions(before.permissions())?;
        }
        whole.sync_all()
    };
    finish(temporary.as_file_mut()).map_err(|e| disk(path, "write", e))?;
    match if force { temporary.persist(&file) } else { temporary.persist_noclobber(&file) } {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Err(exists(path)),
        Err(e) => Err(disk(path, "rename to", e.error)),
    }
}

/// Writes to standard output.
///
/// # Errors
/// [`Error::Disk`] if nobody reads, or writing fails.
pub fn write_stdout(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|e| disk(Path::new("standard output"), "write to", e))
}

/// Finds out, before any work is done, whether [`write_atomically`] could write
/// this file. Leaves nothing behind; folders that are still missing are fine if
/// `make_folders` says that they will be made.
///
/// # Errors
/// As [`write_atomically`]; and if it would write into a terminal.
pub fn check_writable(path: &Path, force: bool, make_folders: bool) -> Result<()> {
    let file = match Target::of(path)? {
        Target::File(file) => file,
        Target::Stdout => return require_no_terminal(path, &std::io::stdout()),
        Target::Stream(stream) => {
            // Not a pipe, which might wait for ever. A device that does not open fails later, with the same words.
            return match is_device(&stream).then(|| File::options().write(true).open(&stream)) {
                Some(Ok(device)) => require_no_terminal(path, &device),
                _ => Ok(()),
            };
        }
    };
    require_free(path, &file, force)?;
    if let Err(e) = fs::symlink_metadata(&file)
        && e.kind() == ErrorKind::InvalidFilename
    {
        return Err(disk(path, "create", e));
    }
    let _guard = output_guard();
    let mut folder = folder_of(&file);
    while make_folders && fs::symlink_metadata(folder).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        folder = folder_of(folder);
    }
    temporary(path, folder).map(drop)
}

/// An error if there is a `file`, where `path` leads, that is not to be replaced. A link to nothing is there, too.
fn require_free(path: &Path, file: &Path, force: bool) -> Result<()> {
    if force || !file.exists() && !path.is_symlink() { Ok(()) } else { Err(exists(path)) }
}

fn require_no_terminal(path: &Path, out: &impl IsTerminal) -> Result<()> {
    match out.is_terminal() {
        false => Ok(()),
        true => Err(Error::Request {
            what: path.display().to_string(),
            expected: "a file or a pipe, because these are bytes, not text".into(),
            found: "a terminal".into(),
        }),
    }
}

fn is_device(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        fs::metadata(path).is_ok_and(|there| there.file_type().is_char_device())
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// `there` is a file with another name `hard` and links to it, all in a folder with a link to itself.
    fn room() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().to_owned();
        let path = move |name: &str| root.join(name);
        fs::write(path("there"), "precious").unwrap();
        fs::hard_link(path("there"), path("hard")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        symlink("there", path("link")).unwrap();
        symlink("../link", path("folder/far")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        symlink(".", path("self")).unwrap();
        symlink("round", path("round")).unwrap();
        (room, path)
    }

    #[test]
    fn a_file_is_the_same_however_it_is_written() {
        let (_room, path) = room();
        let same = |names: &[&str]| {
            let all: Vec<Identity> = names.iter().map(|name| Identity::of(&path(name))).collect();
            assert!(all.iter().all(|one| *one == all[0]), "{names:?}: {all:?}");
            all[0].clone()
        };
        let there = same(&["there", "hard", "link", "self/there", "folder/../there", "folder/far", "./self/self/link"]);
        let new = same(&["nowhere", "dangling", "self/nowhere", "NoWhere", "folder/../nowhere", "none/../nowhere"]);
        let deep = same(&["a/b/x.png", "self/a/b/X.png", "a/../A/b/./x.png"]);
        assert!(there != new && new != deep && there != deep);
        assert_ne!(same(&["folder/nowhere"]), new);
    }

    #[test]
    fn links_are_written_through_and_stay() {
        let (_room, path) = room();
        for (name, target) in [("folder/far", "there"), ("dangling", "nowhere")] {
            let error = write_atomically(&path(name), b"new", false).unwrap_err();
            assert!(error.to_string().contains("expected a new file"), "{error}");
            write_atomically(&path(name), b"new", true).unwrap();
            assert!(path(name).is_symlink() && !path(target).is_symlink());
            assert_eq!(fs::read(path(target)).unwrap(), b"new");
        }
        assert!(check_writable(&path("round"), true, false).is_err());
        assert!(Target::of(&path("folder")).is_err());
    }

    #[test]
    fn permissions_stay() {
        let (_room, path) = room();
        for mode in [0o600, 0o644, 0o755, 0o440] {
            fs::set_permissions(path("there"), fs::Permissions::from_mode(mode)).unwrap();
            write_atomically(&path("there"), b"new", true).unwrap();
            assert_eq!(fs::metadata(path("there")).unwrap().permissions().mode() & 0o7777, mode);
        }
    }

    #[test]
    fn names_of_standard_output() {
        for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/self/../self/fd/1"] {
            assert_eq!(Target::of(Path::new(name)).unwrap(), Target::Stdout, "{name}");
        }
        assert!(matches!(Target::of(Path::new("/dev/null")).unwrap(), Target::Stream(_)));
        assert!(matches!(Target::of(Path::new("/dev/stderr")).unwrap(), Target::Stream(_)));
    }
}
