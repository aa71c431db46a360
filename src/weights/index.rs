//! Sharded checkpoints: networks whose tensors are distributed over several files.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::file::{self, Stored};
use crate::error::{Error, Result};
use crate::files::Location;

/// The tensors listed in an index, from the shards in the same folder.
///
/// # Errors
/// [`Error::Model`] if a shard is not a plain file name, [`Error::Tensor`] if a
/// shard lacks a tensor, and the errors of [`file::open`].
pub fn open(index: &Location) -> Result<Vec<Stored>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |expected: &str, found: String| Error::Model {
        path: index.path().to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let Index { weight_map } = index.read_json()?;
    let mut shards: BTreeMap<&str, BTreeMap<String, Stored>> = BTreeMap::new();
    for shard in weight_map.values() {
        // For safety, an index must not refer to files outside of its folder.
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
            path: index.path().with_file_name(shard),
            name: name.clone(),
            expected: format!("the tensor in this file, as {} says", index.display()),
            found: "nothing".to_owned(),
        })
    };
    weight_map.iter().map(listed).collect()
}
