//! Networks spread over several files, and the JSON that says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::file::{self, Stored};
use crate::error::{Error, Result};

/// The tensors that an index names, from the shards beside it.
///
/// # Errors
/// [`Error::Model`] if a shard is not a plain file name, [`Error::Tensor`] if a
/// shard lacks a tensor, and what [`file::open`] returns.
pub fn open(index: &Path) -> Result<Vec<Stored>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad =
        |expected: &str, found: String| Error::Model { path: index.to_owned(), expected: expected.to_owned(), found };
    let Index { weight_map } = read_json(index)?;
    let mut shards: BTreeMap<&str, BTreeMap<String, Stored>> = BTreeMap::new();
    for shard in weight_map.values() {
        // An index must not reach outside its folder.
        let mut parts = Path::new(shard).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || shard.contains(['/', '\\']) {
            return Err(bad("shards that are plain file names", format!("{shard:?}")));
        }
        if !shards.contains_key(shard.as_str()) {
            let tensors = file::open(&index.with_file_name(shard))?;
            shards.insert(shard, tensors.into_iter().map(|t| (t.name.clone(), t)).collect());
        }
    }
    let listed = |(name, shard): (&String, &String)| {
        let stored = shards.get_mut(shard.as_str()).and_then(|tensors| tensors.remove(name));
        stored.ok_or_else(|| Error::Tensor {
            path: index.with_file_name(shard),
            name: name.clone(),
            expected: format!("the tensor here, as {} says", index.display()),
            found: "nothing".to_owned(),
        })
    };
    weight_map.iter().map(listed).collect()
}

/// Reads a JSON file of at most 64 MB.
///
/// # Errors
/// [`Error::ModelMissing`], [`Error::Disk`], or [`Error::Model`] with the line
/// and column of the mistake.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    const LIMIT: u64 = 64 << 20;
    let disk = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => Error::ModelMissing {
            path: path.to_owned(),
            missing: "file".to_owned(),
            remedy: "check the path, or download the model again".to_owned(),
        },
        _ => Error::Disk { path: path.to_owned(), action: "read", source },
    };
    let mut text = Vec::new();
    File::open(path).and_then(|f| f.take(LIMIT).read_to_end(&mut text)).map_err(disk)?;
    serde_json::from_slice(&text).map_err(|e| Error::Model {
        path: path.to_owned(),
        expected: "JSON of the known form".to_owned(),
        found: e.to_string(),
    })
}
