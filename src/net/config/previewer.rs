//! The previewer, which shows latents of Stage C as small pictures.

use crate::error::{Error, Result};
use crate::weights::Checkpoint;

/// How a previewer makes pictures of latents, seen in its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviewerConfig {
    /// The published network: convolutions that double height and width three times. It takes 16 channels.
    Convolutions,
    /// A linear map from each pixel of the latents to `patch` × `patch` pixels of the picture.
    Linear {
        /// Channels of the latents.
        latent_channels: usize,
        /// Side of a patch, pixels, 1 to 64.
        patch: usize,
    },
}

impl PreviewerConfig {
    /// Name of the linear map's layer: `rgb.weight [3·patch², channels, 1, 1]`, `rgb.bias`. Its rows are ordered by
    /// colour, then by pixel.
    pub const LINEAR: &str = "rgb";

    /// Channels of the latents that it takes.
    pub fn latent_channels(self) -> usize {
        match self {
            Self::Convolutions => 16,
            Self::Linear { latent_channels, .. } => latent_channels,
        }
    }

    /// What the tensors imply.
    pub(crate) fn infer(weights: &Checkpoint) -> Result<Self> {
        let name = format!("{}.weight", Self::LINEAR);
        let Some(dims) = weights.dims(&name) else { return Ok(Self::Convolutions) };
        let patch = dims.first().map_or(0, |rows| (rows / 3).isqrt());
        match *dims {
            [rows, latent_channels, ..] if rows == 3 * patch * patch && (1..=64).contains(&patch) => {
                Ok(Self::Linear { latent_channels, patch })
            }
            _ => Err(Error::Tensor {
                path: weights.path.clone(),
                name,
                expected: "[3·p², channels], for a patch of p×p pixels, p from 1 to 64".into(),
                found: format!("{dims:?}"),
            }),
        }
    }
}
