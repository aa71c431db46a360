//! ControlNets, which steer Stage C by a picture.

use super::{CHANNELS, Check, EffnetBackbone, LAYERS, infer};
use crate::error::{Error, Result};
use crate::weights::Checkpoint;

/// Sizes of a ControlNet, which its files do not state: they are seen in the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlNetConfig {
    /// Channels of the hint, which tell what it is a hint of.
    pub hint_channels: usize,
    /// What makes features of the hint.
    pub backbone: Backbone,
    /// Channels of the features.
    pub features: usize,
    /// Channels of the residual blocks to whose input something is added.
    pub channels: usize,
    /// How many these are.
    pub projections: usize,
}

/// The first part of a ControlNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backbone {
    /// EfficientNetV2, for hints of 32 × 32 pixels a latent pixel.
    Effnet(EffnetBackbone),
    /// Two 3×3 convolutions with four times the hint's channels in between.
    Simple,
    /// 1×1 convolutions and residual blocks, for hints that are latents.
    Large {
        /// Channels after the first convolution.
        hidden: usize,
        /// Channels of the residual blocks.
        width: usize,
        /// How many residual blocks there are.
        blocks: usize,
    },
}

/// The residual blocks of the large Stage C to which the published ControlNets with eight projections add. No file names them.
const PUBLISHED: [usize; 8] = [0, 4, 8, 12, 51, 55, 59, 63];
/// Residual blocks of the large Stage C.
const BLOCKS: usize = 64;

impl ControlNetConfig {
    /// The residual blocks to whose input something is added, of a Stage C that has `all` of them, in the order of execution.
    ///
    /// # Errors
    /// What was expected, if that cannot be told.
    pub fn blocks(&self, all: usize) -> std::result::Result<Vec<usize>, String> {
        if self.projections == all {
            Ok((0..all).collect())
        } else if self.projections == PUBLISHED.len() && all == BLOCKS {
            Ok(PUBLISHED.to_vec())
        } else {
            Err(format!(
                "a ControlNet for a Stage C of {all} residual blocks: with as many projections{}",
                if all == BLOCKS { ", or with 8" } else { "" }
            ))
        }
    }

    /// The sizes that the tensors imply.
    pub(crate) fn infer(weights: &Checkpoint) -> Result<Self> {
        let config = infer::controlnet(weights)?;
        let check = Check { path: &weights.path };
        check.within("projections", config.projections, LAYERS)?;
        for (name, c) in
            [("backbone", config.hint_channels), ("features", config.features), ("channels", config.channels)]
        {
            check.within(name, c, CHANNELS)?;
        }
        let ends = match &config.backbone {
            Backbone::Effnet(effnet) => effnet.check(&check).map(|()| effnet.head)?,
            Backbone::Simple => config.hint_channels,
            Backbone::Large { hidden, width, blocks } => {
                check.within("backbone.0", *hidden, CHANNELS)?;
                check.within("backbone.2", *width, CHANNELS)?;
                check.within("backbone", *blocks, LAYERS)?;
                config.features
            }
        };
        if ends != config.features {
            return Err(Error::Tensor {
                path: weights.path.clone(),
                name: "projections.0.0.weight".into(),
                expected: format!("{ends} input channels, as many as the backbone's features have"),
                found: config.features.to_string(),
            });
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_by_their_number() {
        let config = |projections| ControlNetConfig {
            hint_channels: 1,
            backbone: Backbone::Simple,
            features: 1,
            channels: 8,
            projections,
        };
        assert_eq!(config(8).blocks(64), Ok(vec![0, 4, 8, 12, 51, 55, 59, 63]));
        assert_eq!(config(3).blocks(3), Ok(vec![0, 1, 2]));
        assert_eq!(config(64).blocks(64).unwrap().len(), 64);
        assert!(config(8).blocks(32).unwrap_err().ends_with("32 residual blocks: with as many projections"));
        assert!(config(7).blocks(64).unwrap_err().ends_with("or with 8"));
    }
}
