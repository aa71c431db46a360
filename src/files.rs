//! Where a model's files are: on disk, or built into the program.
//!
//! Everything that opens a model asks a [`Location`] and does not know which.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Display, Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A folder that is part of the program.
#[derive(PartialEq, Eq)]
pub struct BuiltIn {
    /// What it is called; every path into it begins so.
    pub name: &'static str,
    /// Path of each file below the folder, and what the file holds. Weights
    /// must be aligned for 16 bytes, as mapped files are.
    pub files: &'static [(&'static str, &'static [u8])],
}

impl fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A file or a folder, on disk or built in. Whether it is there is a question to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    path: PathBuf,
    /// The folder that `path` leads into, unless it is one on disk.
    built_in: Option<&'static BuiltIn>,
}

impl Location {
    /// Its path, for messages. Opening it would find a file on disk, or nothing.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path, to print.
    pub fn display(&self) -> Display<'_> {
        self.path.display()
    }

    /// Something inside of this folder.
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        Self { path: self.path.join(name), ..*self }
    }

    /// Something else in the same folder.
    pub fn with_file_name(&self, name: impl AsRef<OsStr>) -> Self {
        Self { path: self.path.with_file_name(name), ..*self }
    }

    /// Whether a file is there.
    pub fn is_file(&self) -> bool {
        self.built_in().map_or_else(|| self.path.is_file(), |found| found.is_ok())
    }

    /// Whether a folder is there.
    pub fn is_dir(&self) -> bool {
        match self.built_in {
            Some(folder) => paths(folder).any(|path| path != self.path && path.starts_with(&self.path)),
            None => self.path.is_dir(),
        }
    }

    /// What a built-in file holds, or that there is no such file; `None` for a
    /// location on disk.
    pub fn built_in(&self) -> Option<io::Result<&'static [u8]>> {
        let folder = self.built_in?;
        let found = paths(folder).position(|path| path == self.path);
        Some(found.map(|i| folder.files[i].1).ok_or_else(|| ErrorKind::NotFound.into()))
    }

    /// What a file of text holds, up to 64 MiB. Weights are mapped instead.
    ///
    /// # Errors
    /// The system's word.
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
    /// and column of the mistake.
    pub fn read_json<T: DeserializeOwned>(&self) -> Result<T> {
        let text = self.read().map_err(|e| unreadable(&self.path, "file", e))?;
        serde_json::from_slice(&text).map_err(|e| Error::Model {
            path: self.path.clone(),
            expected: "JSON of the known form".to_owned(),
            found: format!("a mistake: {e}; download it again"),
        })
    }
}

/// Paths of a built-in folder's files, its name included.
fn paths(folder: &'static BuiltIn) -> impl Iterator<Item = PathBuf> {
    folder.files.iter().map(|(below, _)| Path::new(folder.name).join(below))
}

/// The error for a file of a model, called `what`, that cannot be read.
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
                error.contains("c.json: expected JSON of the known form, found a mistake: invalid type"),
                "{error}"
            );
        }
        assert_eq!(Location::from(&FOLDER).join("b/c.json").display().to_string(), "m/b/c.json");
    }
}
