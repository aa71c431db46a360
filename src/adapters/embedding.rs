//! Textual inversion: vectors that were trained to stand in for words, and the names by which prompts use them.
//!
//! | File | Tensors | Names in prompts |
//! |---|---|---|
//! | OneTrainer, also inside of a LoRA | `bundle_emb.PLACEHOLDER.clip_g` `[n, width]` | `PLACEHOLDER` |
//! | OneTrainer, ComfyUI, A1111 | `clip_g` or `emb_params` `[n, width]` | `embedding:FILE`, `<FILE>` |
//! | `diffusers` | one tensor `[width]` or `[n, width]`, called `TOKEN` | `TOKEN`, `embedding:FILE` |
//!
//! The original repository's new tokens have no file: a LoRA holds what training added to them, and neither their names
//! nor what that is added to, which the caller gives ([`NewToken::named`]).

use std::path::{Path, PathBuf};

use super::assign::TOKENS;
use super::file::{factor, wrong};
use crate::error::{Error, Result};
use crate::files::Location;
use crate::model::Model;
use crate::tensor::Weight;
use crate::tokenizer::Tokenizer;
use crate::weights::file::{self, Stored};
use crate::weights::foreign;

/// Where OneTrainer's bundled embeddings begin.
const BUNDLE: &str = "bundle_emb.";

/// A token that a model is to learn.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What prompts call it.
    names: Vec<String>,
    meaning: Meaning,
}

#[derive(Debug, Clone)]
enum Meaning {
    /// Vectors `[n, width]` from this file.
    Vectors(PathBuf, Weight),
    /// The mean of those of all tokens of the vocabulary that match; zero without a pattern.
    MeanOf(Option<String>),
}

impl NewToken {
    /// The tokens of an embedding file.
    ///
    /// # Errors
    /// If it is no valid safetensors file, or holds no embedding for this text encoder; the error says what the file is where
    /// that can be told.
    pub fn open(path: impl Into<PathBuf>) -> Result<Vec<Self>> {
        let location = Location::from(path.into());
        let stored = file::open(&location)?;
        let bundled = bundled(location.path(), &stored)?;
        if !bundled.is_empty() {
            return Ok(bundled);
        }
        let has = |name: &str| stored.iter().find(|tensor| tensor.name == name);
        let stem = location.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let by_file = format!("embedding:{stem}");
        let (tensor, name) = match (has("clip_g").or(has("emb_params")), &stored[..]) {
            (Some(tensor), _) if has("clip_l").is_none() && has("clip_g_out").is_none() => {
                (tensor, format!("<{stem}>"))
            }
            (None, [only]) if only.dims.len() <= 2 && !only.name.starts_with("clip_") => (only, only.name.clone()),
            _ => {
                return Err(Error::Model {
                    path: location.path().to_owned(),
                    expected: "an embedding for Stable Cascade, like `clip_g` alone, or `bundle_emb.….clip_g`".into(),
                    found: foreign::what_is(stored.iter().map(|tensor| tensor.name.as_str())),
                });
            }
        };
        let names = vec![name, format!("{by_file}.safetensors"), by_file];
        Ok(vec![Self {
            names,
            meaning: Meaning::Vectors(location.path().to_owned(), vectors(location.path(), tensor)?),
        }])
    }

    /// A token of this name, which begins as the mean of the tokens of the vocabulary that a regular expression matches
    /// anywhere, or at zero without one. What a LoRA of the original repository changes of new tokens is of those that are
    /// learned first, in this order.
    pub fn named(name: &str, pattern: Option<&str>) -> Self {
        Self { names: vec![name.to_owned()], meaning: Meaning::MeanOf(pattern.map(str::to_owned)) }
    }
}

/// The embeddings that a file has besides other things.
///
/// # Errors
/// If one of them is damaged, or for another text encoder.
pub(super) fn bundled(path: &Path, stored: &[Stored]) -> Result<Vec<NewToken>> {
    let bundle = stored.iter().filter_map(|tensor| Some((tensor, tensor.name.strip_prefix(BUNDLE)?)));
    let token = |(tensor, name): (&Stored, &str)| match name.rsplit_once('.') {
        Some((placeholder, "clip_g")) if !placeholder.is_empty() => {
            let meaning = Meaning::Vectors(path.to_owned(), vectors(path, tensor)?);
            Ok(NewToken { names: vec![placeholder.to_owned()], meaning })
        }
        _ => Err(wrong(path, &tensor.name, "an embedding of inputs for Stable Cascade, `….clip_g`", "another")),
    };
    bundle.map(token).collect()
}

/// Whether a tensor is part of a bundled embedding.
pub(super) fn is_bundled(name: &str) -> bool {
    name.starts_with(BUNDLE)
}

/// Vectors as rows.
fn vectors(path: &Path, stored: &Stored) -> Result<Weight> {
    match stored.dims[..] {
        [_] => factor(path, &stored.as_row()),
        [_, _] => factor(path, stored),
        _ => Err(wrong(path, &stored.name, "vectors [n, width]", &format!("{:?}", stored.dims))),
    }
}

impl Model {
    /// Learns tokens, besides those that it has learned before: prompts may use them, and the table of embeddings has their
    /// rows. The table itself is not copied. To be called before adapters are applied, and before a pipeline is made.
    ///
    /// # Errors
    /// If vectors have another width than the text encoder's, if a name is in use, or if a pattern matches nothing.
    pub fn learn(&mut self, tokens: &[NewToken]) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        let (weights, config) = &mut self.text;
        let width = config.hidden_size;
        let refused =
            |what: &str, expected: String, found: String| Error::Request { what: what.into(), expected, found };
        let table = weights.require(TOKENS, &[config.vocab_size, width])?;
        let own: usize = self.learned.iter().map(|(_, rows)| rows.len()).sum();
        let tokenizer = Tokenizer::open(&self.tokenizer, config.max_position_embeddings, config.vocab_size - own)?;
        let (mut rows, mut at) = (Vec::new(), config.vocab_size);
        let mut learned = self.learned.clone();
        for NewToken { names, meaning } in tokens {
            for name in names {
                let is_known = learned.iter().any(|(known, _)| known.contains(name)) || tokenizer.id(name).is_some();
                if is_known || name.trim() != name || name.is_empty() {
                    return Err(refused(name, "a new token".into(), "one that is in use, or empty".into()));
                }
            }
            let vectors = match meaning {
                Meaning::Vectors(path, vectors) if vectors.dims[1] != width => {
                    let expected = format!("vectors of {width}, the width of {}", weights.path.display());
                    return Err(wrong(path, &vectors.name, &expected, &vectors.dims[1].to_string()));
                }
                Meaning::Vectors(_, vectors) => vectors.clone(),
                Meaning::MeanOf(None) => Weight::from_f32(names[0].clone(), &[1, width], vec![0.0; width]),
                Meaning::MeanOf(Some(pattern)) => {
                    let found = tokenizer
                        .matching(pattern)
                        .map_err(|e| refused(&names[0], "a regular expression".into(), e))?;
                    if found.is_empty() {
                        let expected = "a regular expression that matches tokens of the vocabulary".into();
                        return Err(refused(&names[0], expected, pattern.clone()));
                    }
                    let mut sum = vec![0f64; width];
                    for &id in &found {
                        let row = table.row(id as usize, width);
                        sum.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(row.get(i)));
                    }
                    let mean = sum.iter().map(|sum| (sum / found.len() as f64) as f32).collect();
                    Weight::from_f32(names[0].clone(), &[1, width], mean)
                }
            };
            let count = vectors.dims[0];
            learned.push((names.clone(), at as u32..(at + count) as u32));
            at += count;
            rows.push(vectors);
        }
        weights.append(TOKENS, Weight::stack(&rows));
        config.vocab_size = at;
        self.learned = learned;
        Ok(())
    }
}
