//! A picture that is given to be encoded: its file, how it is fitted, and its latents.

use std::path::PathBuf;

use crate::error::Result;
use crate::image::Image;
use crate::picture::{self, Fit};
use crate::pipeline::{HostTensor, Pipeline};
use crate::request::Request;

/// How a picture is fitted.
#[derive(Debug, clap::Args)]
pub(super) struct Fitting {
    /// What becomes of a picture of other proportions than the result's: cover cuts off what extends beyond it, contain
    /// continues the picture's edges, stretch stretches.
    #[arg(long, value_name = "KIND", default_value_t = Fit::Cover, env = "CASCADE_FIT")]
    pub(super) fit: Fit,
}

/// A picture to begin with.
#[derive(Debug, clap::Args)]
pub(super) struct Initial {
    /// Change this picture (PNG, JPEG, WebP) rather than begin with noise.
    #[arg(long, value_name = "FILE", env = "CASCADE_INIT")]
    pub(super) init: Option<PathBuf>,
    /// How much of --init is to change: 0 leaves it as Stages B and A can reconstruct it, 1 leaves nothing of it.
    #[arg(long, value_name = "S", default_value_t = 0.6, requires = "init", env = "CASCADE_STRENGTH")]
    pub(super) strength: f32,
    #[command(flatten)]
    fitting: Fitting,
}

impl Initial {
    /// Reads the picture.
    ///
    /// # Errors
    /// Those of [`picture::read`].
    pub(super) fn read(&self) -> Result<Option<Image>> {
        self.init.as_deref().map(picture::read).transpose()
    }

    /// Its latents, for the size of the request's pictures.
    ///
    /// # Errors
    /// Those of [`Pipeline::encode_picture`].
    pub(super) fn latents(
        &self,
        picture: Option<Image>,
        request: &Request,
        pipeline: &mut Pipeline,
        check_nodes: bool,
    ) -> Result<Option<HostTensor>> {
        let fitted = picture.map(|picture| self.fitting.fit.apply(&picture, request.width, request.height));
        fitted.map(|picture| pipeline.encode_picture(&picture, request.sizes().c, check_nodes)).transpose()
    }

    /// What a record says of it.
    pub(super) fn record(&self) -> Option<crate::image::InitialPicture> {
        let file = self.init.as_ref()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(crate::image::InitialPicture { file, strength: self.strength, fit: self.fitting.fit.to_string() })
    }
}

/// The size of the pictures that are made of a picture: what is asked for, or else its own, in multiples of 8.
pub(super) fn size(picture: &Image, width: Option<u32>, height: Option<u32>) -> (u32, u32) {
    let own = |side: u32| (side / 8 * 8).max(64);
    (width.unwrap_or_else(|| own(picture.width)), height.unwrap_or_else(|| own(picture.height)))
}
