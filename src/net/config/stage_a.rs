//! `PaellaVQModel`, the network of Stage A.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CHANNELS, Check, LAYERS, infer, source_of};
use crate::error::Result;
use crate::files::Location;
use crate::weights::Checkpoint;

/// Sizes of Stage A, fields as in `vqgan/config.json`; the defaults are those of
/// `diffusers`' class.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct StageAConfig {
    /// Colour channels of the picture that is encoded.
    pub in_channels: usize,
    /// Colour channels of the picture that is decoded.
    pub out_channels: usize,
    /// Side of the pixel-(un)shuffle at the picture's end.
    pub up_down_scale_factor: usize,
    /// Levels; each but the first halves the picture once more.
    pub levels: usize,
    /// Blocks at the deepest level of the decoder.
    pub bottleneck_blocks: usize,
    /// Width of the deepest level; each level above has half as many.
    pub embed_dim: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Codes of the codebook, which Stable Cascade does not use.
    pub num_vq_embeddings: usize,
    /// What Stage B's latent is multiplied by before it is decoded.
    pub scale_factor: f32,
}

impl Default for StageAConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            up_down_scale_factor: 2,
            levels: 2,
            bottleneck_blocks: 12,
            embed_dim: 384,
            latent_channels: 4,
            num_vq_embeddings: 8192,
            scale_factor: 0.3764,
        }
    }
}

impl StageAConfig {
    /// The `scale_factor` of the original repository. Its files have no config; `diffusers`' class default, 0.3764, is the
    /// older value.
    pub const ORIGINAL_SCALE: f32 = 0.43;

    /// Reads `config.json`, or infers the sizes from `weights` without one; and what to say of them in messages.
    pub(crate) fn read_or_infer(config: Option<&Location>, weights: &Checkpoint) -> Result<(Self, String)> {
        let read = match config {
            Some(file) => Self::read(file)?,
            None => {
                let inferred = infer::stage_a(weights)?;
                let scale_factor = if weights.original { Self::ORIGINAL_SCALE } else { inferred.scale_factor };
                Self { scale_factor, ..inferred }
            }
        };
        Ok((read, source_of(config)))
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// If it is missing, no JSON, or has absurd values.
    pub fn read(file: impl Into<Location>) -> Result<Self> {
        let file = file.into();
        let config: Self = file.read_json()?;
        config.validate(file.path())?;
        Ok(config)
    }

    /// Width of level `i`; level 0 is the finest.
    pub fn width(&self, i: usize) -> usize {
        self.embed_dim >> (self.levels - 1 - i)
    }

    /// Picture pixels along one side of a latent pixel.
    pub fn factor(&self) -> usize {
        self.up_down_scale_factor << (self.levels - 1)
    }

    pub(super) fn validate(&self, path: &Path) -> Result<()> {
        let check = Check { path };
        check.within("levels", self.levels, 1..=8)?;
        check.within("bottleneck_blocks", self.bottleneck_blocks, LAYERS)?;
        check.within("up_down_scale_factor", self.up_down_scale_factor, 1..=16)?;
        for (field, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("embed_dim", self.embed_dim),
            ("latent_channels", self.latent_channels),
        ] {
            check.within(field, value, CHANNELS)?;
        }
        check.within("num_vq_embeddings", self.num_vq_embeddings, 1..=1 << 24)?;
        if !self.embed_dim.is_multiple_of(1 << (self.levels - 1)) {
            let expected = format!("that can be halved {} times", self.levels - 1);
            return Err(check.bad("embed_dim", expected, self.embed_dim.to_string()));
        }
        // Zero would decode every latent to the same picture.
        if !self.scale_factor.is_finite() || self.scale_factor <= 0.0 {
            return Err(check.bad("scale_factor", "above 0".to_owned(), self.scale_factor.to_string()));
        }
        Ok(())
    }
}
