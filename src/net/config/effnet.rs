//! EfficientNet, the encoder of pictures.

use crate::error::Result;
use crate::weights::Checkpoint;

use super::{CHANNELS, Check, LAYERS, infer};

/// Sizes of an EfficientNetV2 encoder, which its files do not state: they are seen in the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffnetConfig {
    /// What makes features of a picture.
    pub backbone: EffnetBackbone,
    /// Channels of the latents, to which the features are mapped.
    pub latent_channels: usize,
}

/// Sizes of the part of EfficientNetV2 that makes features; ControlNets have one, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffnetBackbone {
    /// Channels after the first convolution, 3×3 with a stride of 2.
    pub stem: usize,
    /// The layers of stages 1 to 6. The first layer of each has the stride of its stage, [`STRIDES`](Self::STRIDES).
    pub stages: [Vec<Layer>; 6],
    /// Channels after the last convolution of the backbone, 1×1.
    pub head: usize,
}

/// A layer of EfficientNetV2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// `FusedMBConv` that does not expand: a 3×3 convolution.
    Plain {
        /// Channels of the result.
        width: usize,
    },
    /// `FusedMBConv`: a 3×3 convolution that also expands the channels, then a projection.
    Fused {
        /// Channels in between.
        wide: usize,
        /// Channels of the result.
        width: usize,
    },
    /// `MBConv`: expansion, depthwise convolution, squeeze-and-excitation, projection.
    Inverted {
        /// Channels in between.
        wide: usize,
        /// Channels of the squeeze.
        squeeze: usize,
        /// Channels of the result.
        width: usize,
    },
}

impl Layer {
    /// Channels of the result.
    pub fn width(self) -> usize {
        match self {
            Layer::Plain { width } | Layer::Fused { width, .. } | Layer::Inverted { width, .. } => width,
        }
    }
}

impl Default for EffnetConfig {
    /// Stable Cascade's encoder.
    fn default() -> Self {
        Self { backbone: EffnetBackbone::default(), latent_channels: 16 }
    }
}

impl Default for EffnetBackbone {
    /// EfficientNetV2-S.
    fn default() -> Self {
        /// `layers` layers that multiply the channels by `expand` in between; with squeeze-and-excitation if `inverted`.
        fn stage(inverted: bool, expand: usize, from: usize, width: usize, layers: usize) -> Vec<Layer> {
            let layer = |i| {
                let c = if i == 0 { from } else { width };
                match (inverted, expand) {
                    (true, _) => Layer::Inverted { wide: expand * c, squeeze: c / 4, width },
                    (false, 1) => Layer::Plain { width },
                    (false, _) => Layer::Fused { wide: expand * c, width },
                }
            };
            (0..layers).map(layer).collect()
        }
        Self {
            stem: 24,
            stages: [
                stage(false, 1, 24, 24, 2),
                stage(false, 4, 24, 48, 4),
                stage(false, 4, 48, 64, 4),
                stage(true, 4, 64, 128, 6),
                stage(true, 6, 128, 160, 9),
                stage(true, 6, 160, 256, 15),
            ],
            head: 1280,
        }
    }
}

impl EffnetBackbone {
    /// Strides of stages 1 to 6, which tensors do not show.
    pub const STRIDES: [usize; 6] = [1, 2, 2, 2, 1, 2];

    /// That all numbers are within bounds.
    pub(super) fn check(&self, check: &Check<'_>) -> Result<()> {
        for (i, layers) in self.stages.iter().enumerate() {
            let name = format!("backbone.{}", i + 1);
            check.within(&name, layers.len(), LAYERS)?;
            for layer in layers {
                let (wide, squeeze) = match *layer {
                    Layer::Plain { width } => (width, width),
                    Layer::Fused { wide, .. } => (wide, wide),
                    Layer::Inverted { wide, squeeze, .. } => (wide, squeeze),
                };
                [wide, squeeze, layer.width()].into_iter().try_for_each(|c| check.within(&name, c, CHANNELS))?;
            }
        }
        check.within("backbone.0", self.stem, CHANNELS)?;
        check.within("backbone.7", self.head, CHANNELS)
    }
}

impl EffnetConfig {
    /// Pixels of the picture along each side of a latent pixel.
    pub const FACTOR: usize = 32;

    /// The sizes that the tensors imply.
    pub(crate) fn infer(weights: &Checkpoint) -> Result<Self> {
        let config = infer::effnet(weights)?;
        let check = Check { path: &weights.path };
        config.backbone.check(&check)?;
        check.within("mapper.0", config.latent_channels, CHANNELS)?;
        Ok(config)
    }
}
