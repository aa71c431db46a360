//! A whole model: every part opened, its sizes known, and the parts checked
//! against each other.

use super::checkpoint::Checkpoint;
use super::kind::NetworkKind;
use super::paths::{ModelPaths, PartFiles};
use crate::error::{Error, Result};
use crate::files::Location;
use crate::net::config::{ClipTextConfig, StageAConfig, UNetConfig};

/// The parts of Stable Cascade, text to image.
#[derive(Debug)]
pub struct Model {
    /// Latent to picture.
    pub stage_a: (Checkpoint, StageAConfig),
    /// Stage C latent to Stage A latent.
    pub stage_b: (Checkpoint, UNetConfig),
    /// Text to Stage C latent.
    pub stage_c: (Checkpoint, UNetConfig),
    /// Tokens to text states.
    pub text: (Checkpoint, ClipTextConfig),
    /// The tokenizer's folder or file.
    pub tokenizer: Location,
    /// Side of the pictures that it was made for, pixels, if it says so.
    pub native_size: Option<u32>,
}

impl Model {
    /// Opens every part. Reads headers and configs only; weights are read when
    /// they are used.
    ///
    /// # Errors
    /// If a file is damaged or holds another network than its place says, if a
    /// config and its tensors disagree, or if two parts do not fit together.
    pub fn open(paths: &ModelPaths) -> Result<Self> {
        let unet = |part: &PartFiles, kind| {
            let weights = Checkpoint::open_as(&part.weights, kind)?;
            let config = UNetConfig::open(part.config.as_ref(), &weights)?;
            Ok((weights, config))
        };
        let stage_c = unet(&paths.stage_c, NetworkKind::StageC)?;
        let stage_b = unet(&paths.stage_b, NetworkKind::StageB)?;

        let weights = Checkpoint::open_as(&paths.stage_a.weights, NetworkKind::StageA)?;
        let config = StageAConfig::open(paths.stage_a.config.as_ref(), &weights)?;
        let stage_a = (weights, config);

        let weights = Checkpoint::open_as(&paths.text_encoder.weights, NetworkKind::TextEncoder)?;
        let config = ClipTextConfig::open(paths.text_encoder.config.as_ref(), &weights)?;
        let text = (weights, config);

        let native_size = paths.native_size()?;
        let model = Self { stage_a, stage_b, stage_c, text, tokenizer: paths.tokenizer.clone(), native_size };
        model.check_fit()?;
        Ok(model)
    }

    /// Widths at which one part meets another.
    fn check_fit(&self) -> Result<()> {
        let Self { stage_a: (_, a), stage_b: (b_file, b), stage_c: (c_file, c), text: (text_file, text), .. } = self;
        let Checkpoint { path: b_path, .. } = b_file;
        for (path, what, takes, from, gives) in [
            (&c_file.path, "text states", c.clip_text_in_channels, &text_file.path, text.hidden_size),
            (&c_file.path, "pooled text", Some(c.clip_text_pooled_in_channels), &text_file.path, text.projection_dim),
            (&c_file.path, "latents", Some(c.in_channels), &c_file.path, c.out_channels),
            (b_path, "pooled text", Some(b.clip_text_pooled_in_channels), &text_file.path, text.projection_dim),
            (b_path, "Stage C latents", b.effnet_in_channels, &c_file.path, c.out_channels),
            (b_path, "latents", Some(b.in_channels), b_path, b.out_channels),
            (&self.stage_a.0.path, "latents", Some(a.latent_channels), b_path, b.out_channels),
        ] {
            if takes != Some(gives) {
                let takes = takes.map_or("none".to_owned(), |n| n.to_string());
                return Err(Error::Model {
                    path: path.clone(),
                    expected: format!(
                        "a network that takes {what} of {gives} channels, as {} makes them",
                        from.display()
                    ),
                    found: format!("one that takes {takes}; use parts of one model"),
                });
            }
        }
        Ok(())
    }
}
