//! The two CLIP towers.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CHANNELS, Check, LAYERS, infer, source_of};
use crate::error::Result;
use crate::files::Location;
use crate::weights::Checkpoint;

/// Activation of the towers' MLPs, `hidden_act` in the configs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact (erf) GELU.
    Gelu,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
}

/// Sizes of the text tower, fields as in `text_encoder/config.json`; the
/// defaults are those of `transformers`' class.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Width of the tower.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Activation of the MLPs.
    pub hidden_act: Activation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
    /// Id of the end token. 2 in old files, where it means "the largest id".
    pub eos_token_id: u32,
    /// Tokens of a prompt, padding included.
    pub max_position_embeddings: usize,
    /// Tokens known; taken from the embedding's shape.
    pub vocab_size: usize,
    /// Width of the pooled vector; taken from the projection's shape, because
    /// published configs have it wrong.
    pub projection_dim: usize,
}

/// Sizes of the vision tower, fields as in `image_encoder/config.json`; the
/// defaults are those of `transformers`' class.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Width of the tower.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Activation of the MLPs.
    pub hidden_act: Activation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
    /// Side of the picture, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Colour channels.
    pub num_channels: usize,
    /// Width of the embedding; taken from the projection's shape.
    pub projection_dim: usize,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            max_position_embeddings: 77,
            vocab_size: 49408,
            projection_dim: 512,
        }
    }
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            image_size: 224,
            patch_size: 32,
            num_channels: 3,
            projection_dim: 512,
        }
    }
}

impl ClipTextConfig {
    /// Reads `config.json`, or infers the sizes from `weights` without one; and what to say of them in messages.
    pub(crate) fn read_or_infer(config: Option<&Location>, weights: &Checkpoint) -> Result<(Self, String)> {
        let mut read =
            config.map_or_else(|| infer::clip_text(weights), |file| tower_of(file, |all| all.text_config))?;
        let rows = |name: &str| Some(*weights.dims(name)?.first()?);
        read.vocab_size = rows("text_model.embeddings.token_embedding.weight").unwrap_or(read.vocab_size);
        read.projection_dim = rows("text_projection.weight").unwrap_or(read.projection_dim);
        read.validate(config.map_or(&weights.path, Location::path))?;
        Ok((read, source_of(config)))
    }

    fn validate(&self, path: &Path) -> Result<()> {
        let check = Check { path };
        tower(&check, self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.num_attention_heads)?;
        positive(&check, self.layer_norm_eps)?;
        check.within("max_position_embeddings", self.max_position_embeddings, 2..=4096)?;
        check.within("vocab_size", self.vocab_size, 1..=1 << 24)?;
        check.within("projection_dim", self.projection_dim, CHANNELS)
    }
}

impl ClipVisionConfig {
    /// As [`ClipTextConfig::read_or_infer`].
    pub(crate) fn read_or_infer(config: Option<&Location>, weights: &Checkpoint) -> Result<(Self, String)> {
        let mut read =
            config.map_or_else(|| infer::clip_vision(weights), |file| tower_of(file, |all| all.vision_config))?;
        let projection = weights.dims("visual_projection.weight").and_then(|d| d.first());
        read.projection_dim = projection.copied().unwrap_or(read.projection_dim);
        read.validate(config.map_or(&weights.path, Location::path))?;
        Ok((read, source_of(config)))
    }

    /// Patches of a picture, the class token not counted.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    fn validate(&self, path: &Path) -> Result<()> {
        let check = Check { path };
        tower(&check, self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.num_attention_heads)?;
        positive(&check, self.layer_norm_eps)?;
        check.within("image_size", self.image_size, 1..=8192)?;
        check.within("patch_size", self.patch_size, 1..=self.image_size)?;
        check.within("num_channels", self.num_channels, 1..=64)?;
        check.within("projection_dim", self.projection_dim, CHANNELS)
    }
}

/// The config of a whole CLIP, which has one for each tower.
#[derive(Deserialize)]
struct Both {
    text_config: Option<ClipTextConfig>,
    vision_config: Option<ClipVisionConfig>,
}

/// The config of one tower: its own file, or a part of that of the whole CLIP.
fn tower_of<T: DeserializeOwned>(file: &Location, part: fn(Both) -> Option<T>) -> Result<T> {
    let text = file.read()?;
    match part(file.parse_json(&text)?) {
        Some(tower) => Ok(tower),
        None => file.parse_json(&text),
    }
}

fn tower(check: &Check<'_>, width: usize, hidden: usize, layers: usize, heads: usize) -> Result<()> {
    check.within("hidden_size", width, CHANNELS)?;
    check.within("intermediate_size", hidden, CHANNELS)?;
    check.within("num_hidden_layers", layers, LAYERS)?;
    check.heads("num_attention_heads", heads, width)
}

fn positive(check: &Check<'_>, eps: f32) -> Result<()> {
    if eps > 0.0 && eps < 1.0 {
        return Ok(());
    }
    Err(check.bad("layer_norm_eps", "between 0 and 1".to_owned(), eps.to_string()))
}
