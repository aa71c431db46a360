//! Models in the cache of the Hugging Face hub, whose layout other programs share:
//!
//! ```text
//! models--ORG--NAME/
//!   blobs/HASH                        contents of files
//!   refs/main                         the commit that a branch or tag is at
//!   snapshots/COMMIT/PATH             links to blobs
//! ```

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// Short names of models, the repository of each, and that of its prior.
const KNOWN: [(&str, &str); 1] = [("stable-cascade", "stabilityai/stable-cascade")];
/// What follows the name of a model's repository or folder in that of its prior.
const PRIOR: &str = "-prior";
const SNAPSHOTS: &str = "snapshots";

/// The name of a repository, `ORG/NAME`, of which every part can be the name of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository(String);

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Repository {
    type Err = Error;

    /// Reads `ORG/NAME`, or a short name.
    fn from_str(name: &str) -> Result<Self> {
        let known = KNOWN.iter().find(|(short, _)| *short == name).map_or(name, |(_, whole)| whole);
        let is_part = |part: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            (1..=96).contains(&part.len())
                && part.chars().all(is_allowed)
                && !part.starts_with(['.', '-'])
                && !part.ends_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
        };
        match known.split_once('/') {
            Some((organisation, model)) if is_part(organisation) && is_part(model) => Ok(Self(known.to_owned())),
            _ => Err(Error::Request {
                what: "the name of a model".into(),
                expected: format!("ORG/NAME, as a hub has it, or {}", KNOWN.map(|(short, _)| short).join(", ")),
                found: format!("`{name}`"),
            }),
        }
    }
}

impl Repository {
    /// The repository of the prior, for one that holds the rest of a model under a known name.
    pub fn known_prior(&self) -> Option<Self> {
        KNOWN.iter().any(|(_, whole)| *whole == self.0).then(|| Self(format!("{}{PRIOR}", self.0)))
    }

    /// Its folder's name in a cache.
    pub fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    fn of_folder(name: &str) -> Option<Self> {
        name.strip_prefix("models--")?.replacen("--", "/", 1).parse().ok()
    }
}

/// A cache.
#[derive(Debug, Clone)]
pub struct Cache {
    /// The folder of all repositories.
    pub folder: PathBuf,
}

/// What a cache holds of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub repository: Repository,
    /// Bytes of all that was fetched of it.
    pub bytes: u64,
    /// Commits of which there are snapshots.
    pub commits: Vec<String>,
}

impl Cache {
    /// The cache that this user's programs share: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or in `huggingface` in the
    /// user's folder of caches. `None` for a user without a home.
    pub fn of_user() -> Option<Self> {
        let folder = set("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub")))?;
        Some(Self { folder })
    }

    /// The folder of a repository.
    pub fn of(&self, repository: &Repository) -> PathBuf {
        self.folder.join(repository.folder())
    }

    /// The files of a repository, if they are there.
    pub fn snapshot(&self, repository: &Repository) -> Option<PathBuf> {
        current(&self.of(repository))
    }

    /// All repositories, sorted by name. What is no folder of a repository is left out.
    ///
    /// # Errors
    /// [`Error::Disk`] if a folder cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for name in names(&self.folder)? {
            let folder = self.folder.join(&name);
            let Some(repository) = Repository::of_folder(&name).filter(|_| is_folder(&folder)) else { continue };
            let mut bytes = 0;
            for blob in names(&folder.join("blobs"))? {
                bytes += fs::symlink_metadata(folder.join("blobs").join(blob)).map_or(0, |blob| blob.len());
            }
            entries.push(Entry { repository, bytes, commits: names(&folder.join(SNAPSHOTS))? });
        }
        entries.sort_by(|a, b| a.repository.cmp(&b.repository));
        Ok(entries)
    }

    /// Removes all that there is of a repository. Links are removed, and not what they lead to.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] if nothing is there; [`Error::Model`] if there is something else than a folder, such as a
    /// link to a folder elsewhere; [`Error::Disk`].
    pub fn remove(&self, repository: &Repository) -> Result<()> {
        let folder = self.of(repository);
        match fs::symlink_metadata(&folder) {
            Err(_) => {
                return Err(Error::ModelMissing {
                    path: folder,
                    missing: format!("`{repository}`"),
                    remedy: "`cascade-rt ls` lists what is there".into(),
                });
            }
            Ok(there) if !there.is_dir() => {
                return Err(Error::Model {
                    path: folder,
                    expected: "a folder".into(),
                    found: "something else, which is left alone".into(),
                });
            }
            Ok(_) => {}
        }
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Disk { path, action: "remove", source }
        };
        fs::remove_dir_all(&folder).map_err(disk(&folder))?;
        let locks = self.folder.join(".locks").join(repository.folder());
        if is_folder(&locks) { fs::remove_dir_all(&locks).map_err(disk(&locks)) } else { Ok(()) }
    }
}

/// The user's folder for all that has to do with the hub.
pub fn home() -> Option<PathBuf> {
    let caches = || set("XDG_CACHE_HOME").or_else(|| Some(dirs::home_dir()?.join(".cache")));
    set("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
}

/// A path that a variable of the environment has, unless it is empty.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The snapshot of a repository's folder: that of `main`, or else the only one.
pub fn current(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join(SNAPSHOTS);
    let main = fs::read_to_string(folder.join("refs/main")).ok();
    let of_main = main.map(|commit| commit.trim().to_owned()).filter(|commit| is_name(commit));
    let of_main = of_main.map(|commit| snapshots.join(commit)).filter(|snapshot| snapshot.is_dir());
    of_main.or_else(|| match &names(&snapshots).ok()?[..] {
        [only] => Some(snapshots.join(only)),
        _ => None,
    })
}

/// The prior's snapshot, for a snapshot of the rest of the model.
pub(super) fn prior_of(snapshot: &Path) -> Option<PathBuf> {
    let snapshot = snapshot.canonicalize().ok()?;
    let snapshots = snapshot.parent().filter(|folder| folder.ends_with(SNAPSHOTS))?;
    let repository = snapshots.parent()?;
    let name = repository.file_name()?.to_str().filter(|name| name.starts_with("models--"))?;
    current(&repository.with_file_name(format!("{name}{PRIOR}")))
}

/// Whether a text is one plain part of a path.
fn is_name(text: &str) -> bool {
    let mut parts = Path::new(text).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.is_dir())
}

/// Names in a folder, sorted; none where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let disk = |source| Error::Disk { path: folder.to_owned(), action: "list", source };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(disk)? {
        names.push(entry.map_err(disk)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(room: &Path, folder: &str, commits: &[&str], main: Option<&str>) {
        for commit in commits {
            fs::create_dir_all(room.join(folder).join(SNAPSHOTS).join(commit)).unwrap();
        }
        fs::create_dir_all(room.join(folder).join("blobs")).unwrap();
        fs::write(room.join(folder).join("blobs/b"), "four").unwrap();
        if let Some(main) = main {
            fs::create_dir_all(room.join(folder).join("refs")).unwrap();
            fs::write(room.join(folder).join("refs/main"), main).unwrap();
        }
    }

    #[test]
    fn names_are_those_of_repositories_alone() {
        let name = |text: &str| text.parse::<Repository>().map(|name| name.folder()).ok();
        assert_eq!(name("stable-cascade").as_deref(), Some("models--stabilityai--stable-cascade"));
        assert_eq!(name("a/b.c-d_e").as_deref(), Some("models--a--b.c-d_e"));
        for wrong in ["", "a", "/a", "a/", "a/b/c", "../b", "a/..", "a/.b", "a/b--c", "a/b c", "a/b\0", "a\\b/c", "./b"]
        {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert_eq!(name(&format!("a/{}", "b".repeat(97))), None);
    }

    #[test]
    fn the_snapshot_is_that_of_main_or_the_only_one() {
        let room = tempfile::tempdir().unwrap();
        let room = room.path();
        made(room, "models--a--b", &["one", "two"], Some("two\n"));
        made(room, "models--a--b-prior", &["three"], None);
        made(room, "models--a--c", &["one", "two"], None);
        // A file that somebody wrote leads nowhere else.
        made(room, "models--a--d", &["one", "two"], Some("../../models--a--b"));
        let cache = Cache { folder: room.to_owned() };
        let found =
            |name: &str| cache.snapshot(&name.parse().unwrap()).map(|path| path.strip_prefix(room).unwrap().to_owned());
        let two = found("a/b").unwrap();
        assert_eq!(two, Path::new("models--a--b/snapshots/two"));
        assert_eq!(found("a/b-prior"), Some("models--a--b-prior/snapshots/three".into()));
        assert_eq!((found("a/c"), found("a/d"), found("a/e")), (None, None, None));
        let prior = prior_of(&room.join(two)).unwrap();
        assert_eq!(prior, room.canonicalize().unwrap().join("models--a--b-prior/snapshots/three"));
        assert_eq!(prior_of(&prior), None);
    }

    #[test]
    fn only_what_is_in_the_cache_is_removed() {
        let room = tempfile::tempdir().unwrap();
        let outside = room.path().join("outside");
        made(room.path(), "outside", &["one"], Some("one"));
        let folder = room.path().join("cache");
        made(&folder, "models--a--b", &["one"], Some("one"));
        made(&folder, "models--a--c", &["one"], Some("one"));
        fs::create_dir_all(folder.join("datasets--a--b")).unwrap();
        fs::create_dir_all(folder.join(".locks/models--a--b")).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&outside, folder.join("models--a--link")).unwrap();
            std::os::unix::fs::symlink(&outside, folder.join("models--a--b/snapshots/link")).unwrap();
            std::os::unix::fs::symlink(outside.join("blobs/b"), folder.join("models--a--b/snapshots/one/x")).unwrap();
        }
        let cache = Cache { folder: folder.clone() };
        let entries =
            || cache.entries().unwrap().iter().map(|e| (e.repository.to_string(), e.bytes)).collect::<Vec<_>>();
        assert_eq!(entries(), [("a/b".to_owned(), 4), ("a/c".to_owned(), 4)]);
        #[cfg(unix)]
        assert!(matches!(cache.remove(&"a/link".parse().unwrap()), Err(Error::Model { .. })));
        cache.remove(&"a/b".parse().unwrap()).unwrap();
        assert_eq!(entries(), [("a/c".to_owned(), 4)]);
        assert!(outside.join("blobs/b").exists() && !folder.join(".locks/models--a--b").exists());
        assert!(folder.join("datasets--a--b").exists());
        assert!(matches!(cache.remove(&"a/b".parse().unwrap()), Err(Error::ModelMissing { .. })));
    }
}
