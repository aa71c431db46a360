//! ControlNets: files that steer Stage C by a picture.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::Location;
use crate::net::config::{Backbone, ControlNetConfig};
use crate::weights::{Checkpoint, NetworkKind, foreign};

/// A ControlNet's file, opened and understood, but not yet compared with a model.
#[derive(Debug)]
pub struct ControlNet {
    pub(crate) weights: Checkpoint,
    pub(crate) config: ControlNetConfig,
}

/// What a ControlNet takes as its hint, which is told by the hint's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlKind {
    /// Edges, 1 channel: see [`canny_hint`](crate::picture::canny_hint).
    Canny,
    /// A picture with parts to be painted, 4 channels: see [`inpainting_hint`](crate::picture::inpainting_hint).
    Inpainting,
    /// Latents of Stage C, 16 channels: those of a small picture, twice as large.
    SuperResolution,
    /// Vectors of faces where these are, 512 channels. They come from a face detector and recogniser, which are not part of
    /// this project, as a tensor in a file.
    Identity,
    /// Something else, as a tensor in a file.
    Other,
}

impl ControlNet {
    /// Opens a safetensors file.
    ///
    /// # Errors
    /// If it is no valid safetensors file, or holds no ControlNet for Stable Cascade; the error says what it is where that
    /// can be told.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let location = Location::from(path.into());
        let mut networks = Checkpoint::open_all(&location)?;
        let Some(at) = networks.iter().position(|network| network.kind() == NetworkKind::ControlNet) else {
            return Err(Error::Model {
                path: location.path().to_owned(),
                expected: "a ControlNet for Stable Cascade".into(),
                found: match networks.first().map(Checkpoint::kind) {
                    None => "no tensors".into(),
                    Some(NetworkKind::Unknown) => foreign::what_is(networks[0].names()),
                    Some(kind) => kind.to_string(),
                },
            });
        };
        let weights = networks.swap_remove(at);
        let config = ControlNetConfig::open(&weights)?;
        Ok(Self { weights, config })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.weights.path
    }

    /// Channels of its hint.
    pub fn hint_channels(&self) -> usize {
        self.config.hint_channels
    }

    /// What its hint is.
    pub fn kind(&self) -> ControlKind {
        match (self.config.hint_channels, &self.config.backbone) {
            (1, Backbone::Effnet(_)) => ControlKind::Canny,
            (4, Backbone::Effnet(_)) => ControlKind::Inpainting,
            (16, Backbone::Large { .. }) => ControlKind::SuperResolution,
            (512, Backbone::Simple) => ControlKind::Identity,
            _ => ControlKind::Other,
        }
    }
}

impl fmt::Display for ControlKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canny => "canny edges",
            Self::Inpainting => "inpainting",
            Self::SuperResolution => "super-resolution",
            Self::Identity => "identity",
            Self::Other => "an unknown hint",
        })
    }
}
