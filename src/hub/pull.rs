//! A repository: what is needed of it, and how that gets into the cache.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::choose::Choice;
use super::client::Client;
use super::fetch::{File, fetch};
use crate::error::{Error, Result};
use crate::weights::cache::{Cache, Repository};

/// Most files of a repository.
const FILES: usize = 10_000;
/// Most bytes of a name of a file, and of each of its parts.
const NAME: usize = 512;
const PART: usize = 200;

/// What is to be fetched.
#[derive(Debug)]
pub struct Plan {
    /// From where.
    pub repository: Repository,
    /// The branch, tag or commit that was asked for.
    revision: String,
    /// The commit that it is at.
    pub commit: String,
    /// The license that the repository states, if any.
    pub license: Option<String>,
    /// The files that are needed.
    pub files: Vec<File>,
}

/// Asks a hub what there is of a repository at a revision, a branch, tag or commit.
///
/// # Errors
/// Those of the hub, and a list that no hub would send: names that lead elsewhere, hashes that are none.
pub fn plan(
    client: &Client,
    repository: &Repository,
    revision: &str,
    choice: &Choice,
    stop: &dyn Fn() -> bool,
) -> Result<Plan> {
    if !is_plain(revision) {
        return Err(Error::Request {
            what: "--revision".into(),
            expected: "a branch, a tag or a commit".into(),
            found: format!("`{revision}`"),
        });
    }
    let path = format!("/api/models/{repository}/revision/{}?blobs=true", escaped(revision, ""));
    let list = client.list(&path, stop)?;
    let wrong = |found: String| Error::Hub {
        at: format!("{}{path}", client.settings.endpoint),
        found,
        remedy: "it is not the list of files of a hub; check HF_ENDPOINT".into(),
    };
    let commit = list["sha"].as_str().filter(|commit| is_hash(commit, 40)).map(str::to_owned);
    let commit = commit.ok_or_else(|| wrong("no commit".into()))?;
    let siblings = list["siblings"].as_array().filter(|files| files.len() <= FILES);
    let siblings = siblings.ok_or_else(|| wrong(format!("no list of at most {FILES} files")))?;
    let file = |entry: &Value| -> Option<File> {
        let name = entry["rfilename"].as_str().filter(|name| is_plain(name))?.to_owned();
        let (hash, bytes) = match &entry["lfs"] {
            Value::Null => (entry["blobId"].as_str().filter(|hash| is_hash(hash, 40))?, &entry["size"]),
            lfs => (lfs["sha256"].as_str().filter(|hash| is_hash(hash, 64))?, &lfs["size"]),
        };
        Some(File { name, bytes: bytes.as_u64().filter(|bytes| *bytes < 1 << 48)?, hash: hash.to_owned() })
    };
    let files =
        siblings.iter().map(|entry| file(entry).ok_or_else(|| wrong(format!("a file that cannot be: {entry}"))));
    let files = choice.of(files.collect::<Result<_>>()?);
    if files.is_empty() {
        return Err(wrong("no weights of this variant, and no texts".into()));
    }
    let license = ["license_name", "license"].iter().find_map(|key| list["cardData"][key].as_str().map(str::to_owned));
    Ok(Plan { repository: repository.clone(), revision: revision.to_owned(), commit, license, files })
}

impl Plan {
    /// Bytes of the files that the cache does not have, less what it has of them.
    pub fn missing(&self, cache: &Cache) -> u64 {
        let blobs = cache.of(&self.repository).join("blobs");
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |there| there.len());
        let missing = |file: &File| match size(blobs.join(&file.hash)) == file.bytes {
            true => 0,
            false => file.bytes.saturating_sub(size(blobs.join(format!("{}.incomplete", file.hash)))),
        };
        self.files.iter().map(missing).sum()
    }

    /// Fetches the files, and says where they are. `told` is told of each file how many of its bytes there are.
    ///
    /// # Errors
    /// Those of the hub and of the disk; [`Error::Interrupted`]. What was fetched is kept, and the next time goes on from there.
    pub fn fetch(
        &self,
        client: &Client,
        cache: &Cache,
        told: &mut dyn FnMut(&File, u64),
        stop: &dyn Fn() -> bool,
    ) -> Result<PathBuf> {
        let folder = cache.of(&self.repository);
        let (blobs, snapshot) = (folder.join("blobs"), folder.join("snapshots").join(&self.commit));
        for folder in [&blobs, &snapshot] {
            fs::create_dir_all(folder).map_err(disk(folder, "create"))?;
        }
        let locks = cache.folder.join(".locks").join(self.repository.folder());
        fs::create_dir_all(&locks).map_err(disk(&locks, "create"))?;
        for file in &self.files {
            let blob = blobs.join(&file.hash);
            // Another program may fetch the same file, and is waited for.
            let _lock = lock(&locks.join(format!("{}.lock", file.hash)))?;
            if fs::metadata(&blob).is_ok_and(|there| there.len() == file.bytes) {
                told(file, file.bytes);
            } else {
                let path = format!("/{}/resolve/{}/{}", self.repository, self.commit, escaped(&file.name, "/"));
                fetch(client, &path, file, &blobs, &mut |bytes| told(file, bytes), stop)?;
            }
            link(&blob, &snapshot, &file.name)?;
        }
        if self.revision != self.commit {
            let name = folder.join("refs").join(&self.revision);
            fs::create_dir_all(name.parent().unwrap_or(&name)).map_err(disk(&name, "create"))?;
            fs::write(&name, &self.commit).map_err(disk(&name, "write"))?;
        }
        Ok(snapshot)
    }
}

fn disk(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Disk { path, action, source }
}

/// Waits until no other program has this file, and has it until it is dropped. Other programs of the hub lock the same.
fn lock(path: &Path) -> Result<fs::File> {
    let file = fs::File::options().create(true).append(true).open(path).map_err(disk(path, "create"))?;
    // Where a file system has no locks, no program can wait for another.
    let _ = file.lock();
    Ok(file)
}

/// Makes `snapshot/name` a link to a blob; a copy where there are no links.
fn link(blob: &Path, snapshot: &Path, name: &str) -> Result<()> {
    let place = snapshot.join(name);
    let up = "../".repeat(name.split('/').count() + 1);
    let hash = blob.file_name().unwrap_or_default().to_string_lossy();
    let target = format!("{up}blobs/{hash}");
    if fs::read_link(&place).is_ok_and(|there| there == Path::new(&target)) {
        return Ok(());
    }
    let folder = place.parent().unwrap_or(snapshot);
    fs::create_dir_all(folder).map_err(disk(folder, "create"))?;
    if fs::symlink_metadata(&place).is_ok() {
        fs::remove_file(&place).map_err(disk(&place, "replace"))?;
    }
    #[cfg(unix)]
    if std::os::unix::fs::symlink(&target, &place).is_ok() {
        return Ok(());
    }
    fs::copy(blob, &place).map(|_| ()).map_err(disk(&place, "write"))
}

/// Whether a name from elsewhere is a path that leads down, by parts that any file system takes.
fn is_plain(name: &str) -> bool {
    let is_part = |part: &str| {
        (1..=PART).contains(&part.len()) && !part.contains(['\\', ':']) && !part.chars().any(char::is_control)
    };
    let all_normal = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    name.len() <= NAME && all_normal && name.split('/').all(|part| is_part(part) && part != "." && part != "..")
}

fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A text as part of an address; `kept` are characters that stay besides letters, digits, `-`, `_` and `.`.
fn escaped(text: &str, kept: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || kept.as_bytes().contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
