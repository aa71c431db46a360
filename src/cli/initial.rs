//! Pictures that become latents: their files, how they are fitted, and what a record says of them.

use std::path::{Path, PathBuf};

use super::PICTURE;
use crate::error::Result;
use crate::image::{Image, InitialPicture, Record};
use crate::picture::{self, Fit};
use crate::pipeline::{HostTensor, Pipeline};
use crate::request::{Request, parse_whole};

/// The size of a picture that is encoded.
#[derive(Debug, clap::Args)]
pub(super) struct Fitting {
    /// Width in pixels that the picture is resized to, a multiple of 8 from 64 up. Without it, its own, rounded down to
    /// such a one.
    #[arg(short = 'W', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, help_heading = PICTURE)]
    width: Option<u32>,
    /// Height in pixels, like the width.
    #[arg(short = 'H', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, help_heading = PICTURE)]
    height: Option<u32>,
    /// What becomes of a picture of other proportions: cover cuts off what extends beyond the size, contain continues the
    /// picture's edges, stretch stretches.
    #[arg(long, value_name = "KIND", default_value_t = Fit::Cover, help_heading = PICTURE)]
    pub(super) fit: Fit,
}

impl Fitting {
    /// Width and height of the pictures that are made of a picture.
    pub(super) fn size(&self, picture: &Image) -> (u32, u32) {
        let own = |side: u32| (side / 8 * 8).max(64);
        (self.width.unwrap_or_else(|| own(picture.width)), self.height.unwrap_or_else(|| own(picture.height)))
    }

    /// What a record says of a picture that is encoded and decoded, and not changed in between.
    pub(super) fn record(&self, file: &Path) -> InitialPicture {
        InitialPicture { file: name_of(file), strength: 0.0, fit: self.fit.to_string() }
    }
}

/// A picture to begin with.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Change this picture (PNG, JPEG, WebP) rather than begin with noise. Without a size, the result has that which the
    /// model was made for.
    #[arg(long, value_name = "FILE", help_heading = PICTURE, env = "CASCADE_INIT")]
    pub(super) init: Option<PathBuf>,
    /// How much of --init is to change: 0 leaves it as the model can reconstruct it, 1 leaves nothing of it. Stage C takes
    /// about this share of its steps. [default: 0.6]
    #[arg(long, value_name = "S", requires = "init", value_parser = parse_strength, allow_hyphen_values = true, help_heading = PICTURE, env = "CASCADE_STRENGTH")]
    strength: Option<f32>,
    /// What becomes of an --init of other proportions: cover cuts off what extends beyond the size, contain continues the
    /// picture's edges, stretch stretches. [default: cover]
    #[arg(long, value_name = "KIND", requires = "init", help_heading = PICTURE, env = "CASCADE_FIT")]
    fit: Option<Fit>,
}

fn parse_strength(s: &str) -> std::result::Result<f32, String> {
    let strength = s.trim().parse().ok().filter(|strength| (0.0..=1.0).contains(strength));
    strength.ok_or_else(|| format!("expected a number from 0 to 1, got `{s}`"))
}

/// A picture to begin with, which was read.
pub(super) struct Initial {
    picture: Image,
    name: String,
    pub(super) strength: f32,
    fit: Fit,
}

impl Args {
    /// Reads the picture. What the flags do not say is as in `record`, or as usual.
    ///
    /// # Errors
    /// Those of [`picture::read`], and for a record that is damaged.
    pub(super) fn read(&self, record: Option<&Record>) -> Result<Option<Initial>> {
        const STRENGTH: f32 = 0.6;
        let Some(path) = &self.init else { return Ok(None) };
        let recorded = record.and_then(|record| record.init.as_ref());
        let fit = match (self.fit, recorded) {
            (Some(fit), _) => fit,
            (None, Some(recorded)) => recorded.fit.parse()?,
            (None, None) => Fit::default(),
        };
        let strength = self.strength.or(recorded.map(|recorded| recorded.strength)).unwrap_or(STRENGTH);
        Ok(Some(Initial { picture: picture::read(path)?, name: name_of(path), strength, fit }))
    }
}

impl Initial {
    /// Its latents, for the size of the request's pictures.
    ///
    /// # Errors
    /// Those of [`Pipeline::encode_picture`].
    pub(super) fn latents(&self, request: &Request, pipeline: &mut Pipeline, check_nodes: bool) -> Result<HostTensor> {
        let fitted = self.fit.apply(&self.picture, request.width, request.height);
        pipeline.encode_picture(&fitted, request.sizes().c, check_nodes)
    }

    /// What a record says of it.
    pub(super) fn record(&self) -> InitialPicture {
        InitialPicture { file: self.name.clone(), strength: self.strength, fit: self.fit.to_string() }
    }
}

/// Whether pictures of both requests begin with the same latents.
pub(super) fn fit_alike(a: &Request, b: &Request) -> bool {
    (a.width, a.height, a.sizes().c) == (b.width, b.height, b.sizes().c)
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
