//! Adapters (LoRA): small files that change the weights of a model, in every dialect that is known for this one.
//!
//! ```text
//! file (names and factors, as written) ─▶ names (which tensor is meant) ─▶ assign (what changes it) ─▶ Checkpoint::change
//! ```

mod assign;
mod embedding;
mod file;
mod names;

use std::path::{Path, PathBuf};

pub use assign::Applied;
use assign::assign;
pub use embedding::NewToken;
use file::{Entry, Tokens};

use crate::error::Result;
use crate::files::Location;
use crate::model::Model;
use crate::weights::Checkpoint;

/// An adapter's file, opened and understood, but not yet compared with a model. Its factors stay in the mapped file.
#[derive(Debug)]
pub struct Adapter {
    /// The file, for messages.
    path: PathBuf,
    /// Changes of modules, by the names that the file has for them.
    entries: Vec<Entry>,
    /// Changes of token embeddings.
    tokens: Option<Tokens>,
    /// Embeddings of new tokens that the file has besides.
    learned: Vec<NewToken>,
    /// Tensors that belong to none of these, by name.
    unknown: Vec<String>,
}

impl Adapter {
    /// Opens a safetensors file, or PEFT's folder with `adapter_model.safetensors` and `adapter_config.json`.
    ///
    /// # Errors
    /// If it is no valid safetensors file, if a change lacks one of its factors or they do not fit each other, or if it
    /// holds no change at all; the error says what the file is where that can be told.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        file::open(&Location::from(path.into()))
    }

    /// Embeddings of new tokens that the file has besides, for [`Model::learn`].
    pub fn new_tokens(&self) -> &[NewToken] {
        &self.learned
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Model {
    /// Replaces all changes of this model's weights by those of `adapters`, each with its strength: 1 is as it was
    /// trained, 0 leaves the model as it is. Nothing is copied but what no linear layer can compute beside its own
    /// weights: factors are read when a plan runs.
    ///
    /// # Errors
    /// If an adapter changes no tensor of this model, or its dimensions are not those of the tensor that it names.
    pub fn adapt(&mut self, adapters: &[(&Adapter, f32)]) -> Result<Vec<Applied>> {
        adapt(&mut [&mut self.stage_c.0, &mut self.stage_b.0, &mut self.text.0], adapters)
    }
}

/// The same for networks that are no whole model.
///
/// # Errors
/// Those of [`Model::adapt`].
pub fn adapt(networks: &mut [&mut Checkpoint], adapters: &[(&Adapter, f32)]) -> Result<Vec<Applied>> {
    assign(networks, adapters)
}
