//! A model's files, on disk or embedded in the program.
//!
//! Code that opens a model reads from a [`Location`], which hides the difference.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Display, Path, PathBuf};

use serde::de::{Deserialize, DeserializeOwned};

use crate::error::{Error, Result};

/// A folder of files that are embedded in the program.
#[derive(PartialEq, Eq)]
pub struct BuiltIn {
    /// The folder's name, with which every path into it begins.
    pub name: &'static str,
    /// The files: path relative to the folder, and contents. Weights
    /// must be aligned to 16 bytes, because they are read in place.
    pub files: &'static [(&'static str, &'static [u8])],
}

impl fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The path of a file or folder, on disk or built in. It need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    path: PathBuf,
    /// The built-in folder that `path` leads into; `None` for a path on disk.
    built_in: Option<&'static BuiltIn>,
}

impl Location {
    /// The path, for messages. Do not open it: a built-in file is not on disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path, to be printed.
    pub fn display(&self) -> Display<'_> {
        self.path.display()
    }

    /// A file or folder inside of this folder.
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        Self { path: self.path.join(name), ..*self }
    }

    /// Another file or folder in the same folder.
    pub fn with_file_name(&self, name: impl AsRef<OsStr>) -> Self {
        Self { path: self.path.with_file_name(name), ..*self }
    }

    /// Whether there is a file.
    ///
    /// # Errors
    /// If there is something else, a link that leads nowhere, or the system does not let us look: what cannot be
    /// looked at is not the same as nothing.
    pub fn has_file(&self) -> Result<bool> {
        self.has(Found::File, "a file")
    }

    /// Whether there is a folder.
    ///
    /// # Errors
    /// Those of [`has_file`](Self::has_file).
    pub fn has_folder(&self) -> Result<bool> {
        self.has(Found::Folder, "a folder")
    }

    fn has(&self, wanted: Found, expected: &str) -> Result<bool> {
        match self.look()? {
            Found::Nothing => Ok(false),
            found if found == wanted => Ok(true),
            found => Err(Error::Model {
                path: self.path.clone(),
                expected: expected.to_owned(),
                found: format!("{found}; put the right one there, or remove this one"),
            }),
        }
    }

    /// What is there.
    ///
    /// # Errors
    /// [`Error::Disk`] if the system does not let us look.
    pub fn look(&self) -> Result<Found> {
        if let Some(folder) = self.built_in {
            let below = || paths(folder).any(|path| path.starts_with(&self.path));
            return Ok(match self.built_in() {
                Some(Ok(_)) => Found::File,
                _ if below() => Found::Folder,
                _ => Found::Nothing,
            });
        }
        let cannot = |source| Error::Disk { path: self.path.clone(), action: "look at", source };
        match fs::metadata(&self.path) {
            Ok(there) => Ok(Found::of(&there)),
            Err(e) if e.kind() == ErrorKind::NotFound => match fs::read_link(&self.path) {
                Ok(target) => Ok(Found::LinkTo(target)),
                Err(_) => Ok(Found::Nothing),
            },
            Err(e) => Err(cannot(e)),
        }
    }

    /// The names in this folder, sorted; none where it is built in or not there.
    ///
    /// # Errors
    /// [`Error::Disk`] if the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        if self.built_in.is_some() || !self.has_folder()? {
            return Ok(Vec::new());
        }
        let disk = |source| Error::Disk { path: self.path.clone(), action: "list", source };
        let entries = fs::read_dir(&self.path).map_err(disk)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>().map_err(disk)?;
        names.sort();
        Ok(names)
    }

    /// The contents of a built-in file, or `NotFound` if there is no such file. `None` for a
    /// location on disk.
    pub fn built_in(&self) -> Option<io::Result<&'static [u8]>> {
        let folder = self.built_in?;
        let found = paths(folder).position(|path| path == self.path);
        Some(found.map(|i| folder.files[i].1).ok_or_else(|| ErrorKind::NotFound.into()))
    }

    /// The contents of a text file, up to 64 MiB. Weights are not read but mapped.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] if nothing is there, [`Error::Disk`] if the system does not let us read it, and
    /// [`Error::Model`] if it is no file of text: a folder, a pipe, a Git LFS pointer, or too long.
    pub fn read(&self) -> Result<Cow<'static, [u8]>> {
        const LIMIT: u64 = 64 << 20;
        const WHAT: &str = "file";
        if let Some(found) = self.built_in() {
            return found.map(Cow::Borrowed).map_err(|e| unreadable(&self.path, WHAT, e));
        }
        let bad = |expected: &str, found: String| Error::Model {
            path: self.path.clone(),
            expected: expected.to_owned(),
            found,
        };
        let mut bytes = Vec::new();
        let file = open(&self.path, WHAT, "a file of text")?;
        file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&self.path, WHAT, e))?;
        if bytes.len() as u64 > LIMIT {
            return Err(bad("a text of at most 64 MiB", "more; use the file that the model came with".to_owned()));
        }
        if is_lfs_pointer(&bytes) {
            return Err(bad("the file itself", format!("{LFS_POINTER} in its place; run `git lfs pull`")));
        }
        Ok(bytes.into())
    }

    /// The contents of a text file, or nothing where there is no such file.
    ///
    /// # Errors
    /// Those of [`has_file`](Self::has_file) and [`read`](Self::read).
    pub fn read_if_there(&self) -> Result<Option<Cow<'static, [u8]>>> {
        self.has_file()?.then(|| self.read()).transpose()
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and [`Error::Model`] with the line and column of the syntax error.
    pub fn read_json<T: DeserializeOwned>(&self) -> Result<T> {
        self.parse_json(&self.read()?)
    }

    /// Parses `text`, which was read from this file.
    ///
    /// # Errors
    /// [`Error::Model`] with the line and column of the syntax error.
    pub fn parse_json<'a, T: Deserialize<'a>>(&self, text: &'a [u8]) -> Result<T> {
        serde_json::from_slice(text).map_err(|e| Error::Model {
            path: self.path.clone(),
            expected: "JSON with the fields of this kind of file".to_owned(),
            found: format!("an error: {e}; download it again"),
        })
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A link to this path, where nothing is.
    LinkTo(PathBuf),
    /// A pipe, a device or a socket.
    Other,
}

impl Found {
    fn of(there: &fs::Metadata) -> Self {
        match there.file_type() {
            kind if kind.is_file() => Self::File,
            kind if kind.is_dir() => Self::Folder,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::File => f.write_str("a file"),
            Self::Folder => f.write_str("a folder"),
            Self::LinkTo(target) => write!(f, "a link to {}, which is not there", target.display()),
            Self::Other => f.write_str("something that is not a regular file"),
        }
    }
}

/// How messages call the text that Git has in place of a file it stores elsewhere.
pub const LFS_POINTER: &str = "a Git LFS pointer";

/// Whether these are the first bytes of what Git has in place of a file that it stores elsewhere.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs")
}

/// Opens a regular file of a model. `what` is how messages call it if it is missing, `expected` what it should be.
///
/// # Errors
/// [`Error::ModelMissing`] if there is no such file, [`Error::Model`] if it is something else, [`Error::Disk`] if it
/// cannot be read.
pub fn open(path: &Path, what: &str, expected: &str) -> Result<File> {
    // The kind is looked at before opening, because opening a named pipe would wait for a writer.
    match Location::from(path).look()? {
        Found::File | Found::Nothing => File::open(path).map_err(|e| unreadable(path, what, e)),
        found => Err(Error::Model {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found: match found {
                Found::Folder => "a folder; give the file inside it".to_owned(),
                found => found.to_string(),
            },
        }),
    }
}

/// Paths of a built-in folder's files, beginning with the folder's name.
fn paths(folder: &'static BuiltIn) -> impl Iterator<Item = PathBuf> {
    folder.files.iter().map(|(below, _)| Path::new(folder.name).join(below))
}

/// The error for a model file that cannot be read; `what` is how messages call the file.
pub fn unreadable(path: &Path, what: &str, source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::NotFound => Error::ModelMissing {
            path: path.to_owned(),
            missing: what.to_owned(),
            remedy: "check the path, or download the model again".to_owned(),
        },
        _ => Error::Disk { path: path.to_owned(), action: "read", source },
    }
}

impl<P: ?Sized + AsRef<Path>> From<&P> for Location {
    /// A path on disk.
    fn from(path: &P) -> Self {
        path.as_ref().to_owned().into()
    }
}

impl From<PathBuf> for Location {
    /// A path on disk.
    fn from(path: PathBuf) -> Self {
        Self { path, built_in: None }
    }
}

impl From<&'static BuiltIn> for Location {
    /// The folder itself.
    fn from(folder: &'static BuiltIn) -> Self {
        Self { path: folder.name.into(), built_in: Some(folder) }
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FOLDER: BuiltIn = BuiltIn { name: "m", files: &[("a.json", b"[1]"), ("b/c.json", b"[2]")] };

    #[test]
    fn a_built_in_folder_is_like_one_on_disk() {
        let disk = tempfile::tempdir().unwrap();
        std::fs::create_dir(disk.path().join("b")).unwrap();
        for (name, bytes) in FOLDER.files {
            std::fs::write(disk.path().join(name), bytes).unwrap();
        }
        for folder in [Location::from(&FOLDER), disk.path().into()] {
            assert_eq!(folder.look().unwrap(), Found::Folder);
            assert!(folder.has_folder().unwrap() && folder.join("b").has_folder().unwrap());
            let file = folder.join("b/c.json");
            assert!(file.has_file().unwrap());
            assert_eq!(file.read_json::<Vec<u8>>().unwrap(), [2]);
            assert_eq!(file.read_if_there().unwrap().as_deref(), Some(&b"[2]"[..]));
            assert_eq!(folder.join("a.txt").with_file_name("a.json").read_json::<Vec<u8>>().unwrap(), [1]);
            let none = folder.join("b/d.json");
            assert!(!none.has_file().unwrap() && !none.has_folder().unwrap());
            assert_eq!(none.read_if_there().unwrap(), None);
            let error = none.read_json::<Vec<u8>>().unwrap_err();
            let expected = format!("{}: file not found; check the path", none.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
            let error = file.read_json::<String>().unwrap_err().to_string();
            assert!(
                error.contains("c.json: expected JSON with the fields of this kind of file, found an error: invalid"),
                "{error}"
            );
            // What is there but is something else is not the same as nothing.
            for wrong in [folder.join("b").has_file(), file.has_folder()] {
                let error = wrong.unwrap_err().to_string();
                assert!(error.contains("expected a f") && error.contains("found a f"), "{error}");
            }
        }
        assert_eq!(Location::from(&FOLDER).join("b/c.json").display().to_string(), "m/b/c.json");
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_looked_at_is_not_nothing() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Location::from(&folder.path().join(name));
        symlink("gone", at("dangling").path()).unwrap();
        symlink("loop", at("loop").path()).unwrap();
        fs::write(at("file").path(), "x").unwrap();
        for (name, code, words) in [
            ("dangling", 3, "found a link to gone, which is not there"),
            ("loop", 7, "cannot look at"),
            ("file/below", 7, "cannot look at"),
            (&"n".repeat(300), 7, "cannot look at"),
        ] {
            for error in [
                at(name).has_file().unwrap_err(),
                at(name).has_folder().unwrap_err(),
                at(name).read_if_there().unwrap_err(),
                at(name).read().unwrap_err(),
            ] {
                assert!(error.exit_code() == code && error.to_string().contains(words), "{error}");
            }
        }
    }

    #[test]
    fn texts_that_are_not_what_they_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let file = Location::from(&folder.path().join("a.json"));
        fs::write(file.path(), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n").unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("a Git LFS pointer in its place; run `git lfs pull`"), "{error}");
        File::create(file.path()).unwrap().set_len((64 << 20) + 1).unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("expected a text of at most 64 MiB, found more"), "{error}");
        assert!(Location::from(folder.path()).read().unwrap_err().to_string().contains("found a folder"));
    }
}
