//! A model's files, on disk or embedded in the program.
//!
//! Code that opens a model reads from a [`Location`], which hides the difference.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Display, Path, PathBuf};

use serde::de::DeserializeOwned;

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

    /// Whether this is an existing file.
    pub fn is_file(&self) -> bool {
        self.built_in().map_or_else(|| self.path.is_file(), |found| found.is_ok())
    }

    /// Whether this is an existing folder.
    pub fn is_dir(&self) -> bool {
        match self.built_in {
            Some(folder) => paths(folder).any(|path| path != self.path && path.starts_with(&self.path)),
            None => self.path.is_dir(),
        }
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
    /// The error of the operating system.
    pub fn read(&self) -> io::Result<Cow<'static, [u8]>> {
        const LIMIT: u64 = 64 << 20;
        if let Some(found) = self.built_in() {
            return found.map(Cow::Borrowed);
        }
        let mut bytes = Vec::new();
        File::open(&self.path)?.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// [`Error::ModelMissing`], [`Error::Disk`], or [`Error::Model`] with the line
    /// and column of the syntax error.
    pub fn read_json<T: DeserializeOwned>(&self) -> Result<T> {
        let text = self.read().map_err(|e| unreadable(&self.path, "file", e))?;
        serde_json::from_slice(&text).map_err(|e| Error::Model {
            path: self.path.clone(),
            expected: "JSON with the fields of this kind of file".to_owned(),
            found: format!("an error: {e}; download it again"),
        })
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
            assert!(folder.is_dir() && !folder.is_file());
            assert!(folder.join("b").is_dir() && !folder.join("b").is_file());
            let file = folder.join("b/c.json");
            assert!(file.is_file() && !file.is_dir());
            assert_eq!(file.read_json::<Vec<u8>>().unwrap(), [2]);
            assert_eq!(folder.join("a.txt").with_file_name("a.json").read_json::<Vec<u8>>().unwrap(), [1]);
            let none = folder.join("b/d.json");
            assert!(!none.is_file() && !none.is_dir());
            let error = none.read_json::<Vec<u8>>().unwrap_err();
            let expected = format!("{}: file not found; check the path", none.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
            let error = file.read_json::<String>().unwrap_err().to_string();
            assert!(
                error.contains("c.json: expected JSON with the fields of this kind of file, found an error: invalid"),
                "{error}"
            );
        }
        assert_eq!(Location::from(&FOLDER).join("b/c.json").display().to_string(), "m/b/c.json");
    }
}
