//! What an adapter's file holds, in the file's own names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use fancy_regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{Adapter, embedding};
use crate::error::{Error, Result};
use crate::files::{self, Location};
use crate::tensor::Weight;
use crate::weights::file::{self, Stored};
use crate::weights::foreign;

/// The change of one module, as written.
#[derive(Debug)]
pub(super) struct Entry {
    /// The module's name in the file, without what marks its factors.
    pub module: String,
    /// `[r, k]`, whatever its further dimensions were.
    pub down: Weight,
    /// `[o, r]`.
    pub up: Weight,
    /// Factor of `up·down`: alpha by rank.
    pub scale: f32,
    /// Magnitudes, where direction and magnitude are apart (DoRA).
    pub magnitude: Option<Magnitude>,
}

/// The magnitudes of a decomposed change.
#[derive(Debug)]
pub(super) struct Magnitude {
    pub values: Vec<f32>,
    /// Whether there is one for each output, or for each input channel.
    pub of_outputs: bool,
}

/// Changes of the embeddings of tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Which rows of the embedding.
    pub rows: Vec<usize>,
    /// What is added to them, `[tokens, width]`.
    pub values: Weight,
}

/// The factors of a module, as they are found one by one.
#[derive(Default)]
struct Found {
    down: Option<Stored>,
    up: Option<Stored>,
    alpha: Option<Stored>,
    magnitude: Option<(Stored, Axis)>,
}

/// Which axis a magnitude is for.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    /// PEFT: the outputs.
    Outputs,
    /// OneTrainer, ComfyUI: the shape says.
    ByShape,
}

/// How names end, and what the tensor is. The first that fits counts.
const ENDINGS: [(&str, Role); 16] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_down", Role::Down),
    (".lora_up", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_magnitude_vector.default.weight", Role::Magnitude(Axis::Outputs)),
    (".lora_magnitude_vector.weight", Role::Magnitude(Axis::Outputs)),
    (".lora_magnitude_vector", Role::Magnitude(Axis::Outputs)),
    (".dora_scale", Role::Magnitude(Axis::ByShape)),
    (".lora_alpha", Role::Alpha),
    (".alpha", Role::Alpha),
];

#[derive(Clone, Copy)]
enum Role {
    Down,
    Up,
    Alpha,
    Magnitude(Axis),
}

/// What PEFT's `adapter_config.json` says of scales.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Config {
    lora_alpha: Option<f32>,
    use_rslora: bool,
    alpha_pattern: InOrder,
}

/// Patterns of module names and what is for those that match, in the order of the file, in which they are tried.
#[derive(Debug, Default)]
struct InOrder(Vec<(String, f32)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = InOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of patterns and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<InOrder, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Config {
    /// The patterns for alpha, compiled: regular expressions for the end of a module's name, from a dot on.
    ///
    /// Source: `get_pattern_key` in PEFT.
    fn alphas(&self, file: &Location) -> Result<Vec<(Regex, f32)>> {
        let compile = |(pattern, alpha): &(String, f32)| {
            let regex = Regex::new(&format!("^(.*\\.)?({pattern})$")).map_err(|e| Error::Model {
                path: file.path().to_owned(),
                expected: "regular expressions in `alpha_pattern`".to_owned(),
                found: format!("`{pattern}`: {e}"),
            })?;
            Ok((regex, *alpha))
        };
        self.alpha_pattern.0.iter().map(compile).collect()
    }

    /// The factor of a module's change of this rank.
    fn scale(&self, alphas: &[(Regex, f32)], module: &str, rank: usize) -> f32 {
        let own = |(pattern, _): &&(Regex, f32)| pattern.is_match(module).unwrap_or(false);
        let alpha = alphas.iter().find(own).map(|(_, alpha)| *alpha);
        let by = if self.use_rslora { (rank as f32).sqrt() } else { rank as f32 };
        alpha.or(self.lora_alpha).map_or(1.0, |alpha| alpha / by)
    }
}

/// See [`Adapter::open`].
pub(super) fn open(given: &Location) -> Result<Adapter> {
    let location = match given.look()? {
        files::Found::Folder => given.join("adapter_model.safetensors"),
        _ => given.clone(),
    };
    let config_file = location.with_file_name("adapter_config.json");
    let config: Config = if config_file.has_file()? { config_file.read_json()? } else { Config::default() };
    let alphas = config.alphas(&config_file)?;

    let path = location.path().to_owned();
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let (mut rows, mut values, mut unknown) = (None, None, Vec::new());
    let stored = file::open(&location)?;
    for tensor in &stored {
        let name = tensor.name.strip_prefix("state_dict.").unwrap_or(&tensor.name);
        match name {
            "embeddings.indices" => rows = Some(tensor.clone()),
            "embeddings.embeddings" => values = Some(tensor.clone()),
            _ => match role(name) {
                Some((module, role)) => {
                    let found = found.entry(module.to_owned()).or_default();
                    match role {
                        Role::Down => found.down = Some(tensor.clone()),
                        Role::Up => found.up = Some(tensor.clone()),
                        Role::Alpha => found.alpha = Some(tensor.clone()),
                        Role::Magnitude(axis) => found.magnitude = Some((tensor.clone(), axis)),
                    }
                }
                None if embedding::is_bundled(name) => {}
                None => unknown.push(name.to_owned()),
            },
        }
    }
    let entries = found
        .into_iter()
        .map(|(module, found)| entry(&path, module, found, |module, rank| config.scale(&alphas, module, rank)));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    let tokens = match (rows, values) {
        (Some(rows), Some(values)) => Some(tokens(&path, &rows, &values)?),
        (None, None) => None,
        (Some(lonely), None) | (None, Some(lonely)) => {
            return Err(wrong(
                &path,
                &lonely.name,
                "`embeddings.indices` and `embeddings.embeddings` together",
                "one of them",
            ));
        }
    };
    if entries.is_empty() && tokens.is_none() {
        return Err(Error::Model {
            path,
            expected: "an adapter (LoRA) for Stable Cascade, with tensors like `….lora_down.weight`".into(),
            found: foreign::what_is(stored.iter().map(|tensor| tensor.name.as_str())),
        });
    }
    let learned = embedding::bundled(&path, &stored)?;
    Ok(Adapter { path, entries, tokens, learned, unknown })
}

/// The module that a tensor belongs to, and what it is of the module's change.
fn role(name: &str) -> Option<(&str, Role)> {
    ENDINGS.iter().find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role)))
}

/// The number of a module that the original repository's training numbers instead of naming it.
pub(super) fn numbered(module: &str) -> Option<usize> {
    module.strip_prefix("weights.")?.parse().ok()
}

/// `configured` is the factor that a configuration has for a module's change of a rank.
fn entry(path: &Path, module: String, found: Found, configured: impl Fn(&str, usize) -> f32) -> Result<Entry> {
    let missing =
        |what: &str| wrong(path, &module, "two factors, like `lora_down` and `lora_up`", &format!("no {what}"));
    let (down, up) = (found.down.ok_or_else(|| missing("first one"))?, found.up.ok_or_else(|| missing("second one"))?);
    let (down, up) = (factor(path, &down)?, factor(path, &up)?);
    let (rank, o) = (down.dims[0], up.dims[0]);
    let fits = up.dims[1] == rank;
    if !fits {
        let found = format!("{:?} and {:?}", down.dims, up.dims);
        return Err(wrong(path, &module, "factors [rank, inputs] and [outputs, rank]", &found));
    }
    let scale = match &found.alpha {
        // The original repository's training has an alpha of 1, which its files do not say.
        None if numbered(&module).is_some() => 1.0 / rank as f32,
        Some(alpha) => match numbers(path, alpha)?[..] {
            [alpha] => alpha / rank as f32,
            _ => return Err(wrong(path, &alpha.name, "one number", &format!("{:?}", alpha.dims))),
        },
        None => configured(&module, rank),
    };
    let magnitude = found.magnitude.map(|(stored, axis)| {
        let values = numbers(path, &stored)?;
        let dims = &stored.dims;
        // [1, inputs, …] is for inputs, [outputs, 1, …] and [outputs] for outputs.
        let of_inputs = axis == Axis::ByShape && dims.len() >= 2 && dims[0] == 1 && (values.len() != o || dims[1] > 1);
        Ok(Magnitude { values, of_outputs: !of_inputs })
    });
    Ok(Entry { module, down, up, scale, magnitude: magnitude.transpose()? })
}

/// A factor as a matrix: its first dimension, by the product of the others.
pub(super) fn factor(path: &Path, stored: &Stored) -> Result<Weight> {
    let part = stored.part().ok_or_else(|| not_floats(path, stored))?;
    let weight = Weight::new(stored.name.clone(), stored.dims.clone(), vec![part]);
    match stored.dims[..] {
        [_, _, ..] if !weight.parts()[0].elements().is_finite() => {
            Err(wrong(path, &stored.name, "finite numbers", "NaN or infinity"))
        }
        [first, _, ..] => {
            let rest = stored.dims[1..].iter().product();
            Ok(weight.reshape(&[first, rest]))
        }
        _ => Err(wrong(path, &stored.name, "two dimensions at least", &format!("{:?}", stored.dims))),
    }
}

/// The elements of a small tensor.
fn numbers(path: &Path, stored: &Stored) -> Result<Vec<f32>> {
    let part = stored.part().ok_or_else(|| not_floats(path, stored))?;
    let mut values = Vec::new();
    part.elements().extend_f32(&mut values);
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(values),
        false => Err(wrong(path, &stored.name, "finite numbers", "NaN or infinity")),
    }
}

fn tokens(path: &Path, rows: &Stored, values: &Stored) -> Result<Tokens> {
    let indices = rows.integers().map(|indices| indices.into_iter().map(usize::try_from).collect());
    let Some(Ok(indices)) = indices else {
        return Err(wrong(path, &rows.name, "whole numbers from 0 up", &format!("others, in {:?}", rows.dtype)));
    };
    let indices: Vec<usize> = indices;
    match values.dims[..] {
        [count, _] if count == indices.len() => Ok(Tokens { rows: indices, values: factor(path, values)? }),
        _ => {
            let expected = format!("{} rows, one for each index", indices.len());
            Err(wrong(path, &values.name, &expected, &format!("{:?}", values.dims)))
        }
    }
}

fn not_floats(path: &Path, stored: &Stored) -> Error {
    wrong(path, &stored.name, "elements in F32, F16 or BF16", &format!("{:?} in {:?}", stored.dims, stored.dtype))
}

pub(super) fn wrong(path: &Path, name: &str, expected: &str, found: &str) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        name: name.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}
