//! Pictures that become latents: their files, how they are fitted, and what a record says of them.

use std::path::{Path, PathBuf};

use super::PICTURE;
use crate::error::{Error, Result};
use crate::image::{Image, InitialPicture, Record};
use crate::picture::{self, Fit};
use crate::pipeline::{HostTensor, Init, Pipeline, Repaint};
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
        InitialPicture { file: name_of(file), strength: 0.0, fit: self.fit.to_string(), mask: None }
    }
}

/// A picture to begin with.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Start from this picture (PNG, JPEG, WebP) instead of from noise. Without -W and -H, the result has the size that
    /// the model was made for.
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
    /// Change --init only where this picture of the same size is white; or transparent, if it is that anywhere.
    #[arg(long, value_name = "FILE", requires = "init", conflicts_with = "prior_only", help_heading = PICTURE, env = "CASCADE_MASK")]
    pub(super) mask: Option<PathBuf>,
}

fn parse_strength(s: &str) -> std::result::Result<f32, String> {
    let strength = s.trim().parse().ok().filter(|strength| (0.0..=1.0).contains(strength));
    strength.ok_or_else(|| format!("expected a number from 0 to 1, got `{s}`"))
}

/// A picture to begin with, which was read.
pub(super) struct Initial {
    picture: Image,
    mask: Option<Image>,
    fit: Fit,
    /// What a record says of it.
    pub(super) record: InitialPicture,
}

impl Args {
    /// Reads the picture. What the flags do not say is as in `record`, or as usual.
    ///
    /// # Errors
    /// Those of [`picture::read`], a mask of another size, and a record that is damaged.
    pub(super) fn read(&self, record: Option<&Record>) -> Result<Option<Initial>> {
        let Some(path) = &self.init else { return Ok(None) };
        let recorded = record.and_then(|record| record.init.as_ref());
        let fit = match (self.fit, recorded) {
            (Some(fit), _) => fit,
            (None, Some(recorded)) => recorded.fit.parse()?,
            (None, None) => Fit::default(),
        };
        let strength = self.strength.or(recorded.map(|recorded| recorded.strength)).unwrap_or(InitialPicture::STRENGTH);
        let (picture, mask) = (picture::read(path)?, self.mask.as_deref().map(picture::read_mask).transpose()?);
        if let Some(mask) = mask.as_ref().filter(|mask| (mask.width, mask.height) != (picture.width, picture.height)) {
            return Err(Error::Request {
                what: "mask".into(),
                expected: format!("{}×{} pixels, as {} has", picture.width, picture.height, path.display()),
                found: format!("{}×{}", mask.width, mask.height),
            });
        }
        let name_of_mask = self.mask.as_deref().map(name_of);
        let record = InitialPicture { file: name_of(path), strength, fit: fit.to_string(), mask: name_of_mask };
        Ok(Some(Initial { picture, mask, fit, record }))
    }
}

/// A picture to begin with, for pictures of one size.
pub(super) struct Fitted {
    latents: HostTensor,
    strength: f32,
    picture: Image,
    mask: Option<Image>,
}

impl Initial {
    /// A picture that did not come from a file, with a mask of its size.
    #[cfg(feature = "serve")]
    pub(super) fn of(picture: Image, mask: Option<Image>, fit: Fit, record: InitialPicture) -> Self {
        Self { picture, mask, fit, record }
    }

    /// Fits it to the request, and encodes it.
    ///
    /// # Errors
    /// Those of [`Pipeline::encode_picture`].
    pub(super) fn fitted(&self, request: &Request, pipeline: &mut Pipeline, check_nodes: bool) -> Result<Fitted> {
        let fitted = |picture: &Image| self.fit.apply(picture, request.width, request.height);
        let (picture, mask) = (fitted(&self.picture), self.mask.as_ref().map(fitted));
        let latents = pipeline.encode_picture(&picture, request.sizes().c, check_nodes)?;
        Ok(Fitted { latents, strength: self.record.strength, picture, mask })
    }
}

impl Fitted {
    /// As a run takes it.
    pub(super) fn init(&self) -> Init<'_> {
        let repaint = self.mask.as_ref().map(|mask| Repaint { picture: &self.picture, mask });
        Init { latents: &self.latents, strength: self.strength, repaint }
    }
}

/// Whether pictures of both requests begin with the same latents.
pub(super) fn fit_alike(a: &Request, b: &Request) -> bool {
    (a.width, a.height, a.sizes().c) == (b.width, b.height, b.sizes().c)
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
