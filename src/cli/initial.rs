//! Pictures that become latents: their files, how they are fitted, and what a record says of them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::PICTURE;
use crate::error::{Error, Result};
use crate::image::{Image, InitialPicture, Record};
use crate::picture::{self, Fit, extend, margins};
use crate::pipeline::{HostTensor, Init, Pipeline, Repaint};
use crate::request::{MAX_SIDE, Request, parse_strength, parse_whole};

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
        InitialPicture { file: name_of(file), strength: 0.0, fit: self.fit.to_string(), mask: None, outpaint: None }
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
    /// about this share of its steps. [default: 0.6, and 1 with --outpaint]
    #[arg(long, value_name = "S", requires = "init", value_parser = parse_strength, allow_hyphen_values = true, help_heading = PICTURE, env = "CASCADE_STRENGTH")]
    strength: Option<f32>,
    /// What becomes of an --init of other proportions: cover cuts off what extends beyond the size, contain continues the
    /// picture's edges, stretch stretches. [default: cover]
    #[arg(long, value_name = "KIND", requires = "init", help_heading = PICTURE, env = "CASCADE_FIT")]
    fit: Option<Fit>,
    /// Change --init only where this picture of the same size is white; or transparent, if it is that anywhere.
    #[arg(long, value_name = "FILE", requires = "init", conflicts_with = "prior_only", help_heading = PICTURE, env = "CASCADE_MASK")]
    pub(super) mask: Option<PathBuf>,
    /// Extend --init by so many pixels on its left, right, top and bottom, and leave the rest as it is. To make the sides
    /// multiples of 8 from 64 up, what is missing of that is added on the right and at the bottom.
    #[arg(long, value_name = "L,R,T,B", allow_hyphen_values = true, requires = "init", conflicts_with_all = ["mask", "fit", "width", "height", "prior_only"], help_heading = PICTURE, env = "CASCADE_OUTPAINT")]
    outpaint: Option<Margins>,
}

/// `LEFT,RIGHT,TOP,BOTTOM`, pixels by which a picture is extended.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Margins([u32; 4]);

impl FromStr for Margins {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let sides: Option<Vec<u32>> = text.split(',').map(|side| side.trim().parse().ok()).collect();
        let sides = sides.and_then(|sides| <[u32; 4]>::try_from(sides).ok());
        sides.filter(|sides| sides.iter().all(|side| *side <= MAX_SIDE) && *sides != [0; 4]).map(Self).ok_or_else(|| {
            format!("expected pixels on the left, right, top and bottom like 0,64,0,0, at most {MAX_SIDE} each, got `{text}`")
        })
    }
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
    /// Whether flags say which part of the picture stays as it is.
    pub(super) fn is_masked(&self) -> bool {
        self.mask.is_some() || self.outpaint.is_some()
    }

    /// By how much the picture is extended.
    fn margins(&self, record: Option<&Record>) -> Option<[u32; 4]> {
        let recorded = record.and_then(|record| record.init.as_ref()?.outpaint).filter(|_| self.mask.is_none());
        self.outpaint.map(|Margins(sides)| sides).or(recorded).filter(|_| self.init.is_some())
    }

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
        let outpaint = self.margins(record);
        // Nothing is known of what is new.
        let usual = if outpaint.is_some() { 1.0 } else { InitialPicture::STRENGTH };
        let strength = self.strength.or(recorded.map(|recorded| recorded.strength)).unwrap_or(usual);
        let (picture, mask) = (picture::read(path)?, self.mask.as_deref().map(picture::read_mask).transpose()?);
        if let Some(mask) = mask.as_ref().filter(|mask| (mask.width, mask.height) != (picture.width, picture.height)) {
            return Err(Error::Request {
                what: "mask".into(),
                expected: format!("{}×{} pixels, as {} has", picture.width, picture.height, path.display()),
                found: format!("{}×{}", mask.width, mask.height),
            });
        }
        let initial = Initial { picture, mask, fit, record: self.record(path, strength, fit, outpaint) };
        match initial.extended() {
            Some((width, height)) if width.max(height) > MAX_SIDE => Err(Error::Request {
                what: "--outpaint".into(),
                expected: format!("pixels by which no side becomes longer than {MAX_SIDE}"),
                found: format!("{width}×{height}"),
            }),
            _ => Ok(Some(initial)),
        }
    }

    fn record(&self, path: &Path, strength: f32, fit: Fit, outpaint: Option<[u32; 4]>) -> InitialPicture {
        let mask = self.mask.as_deref().map(name_of);
        InitialPicture { file: name_of(path), strength, fit: fit.to_string(), mask, outpaint }
    }
}

impl Initial {
    /// A picture that did not come from a file, with a mask of its size.
    #[cfg(feature = "serve")]
    pub(super) fn of(picture: Image, mask: Option<Image>, fit: Fit, record: InitialPicture) -> Self {
        Self { picture, mask, fit, record }
    }

    /// Whether a part of the picture stays as it is.
    pub(super) fn is_masked(&self) -> bool {
        self.mask.is_some() || self.record.outpaint.is_some()
    }

    /// Width and height of the picture when it is extended, if it is.
    pub(super) fn extended(&self) -> Option<(u32, u32)> {
        let [left, right, top, bottom] = self.record.outpaint?;
        let side = |before: u32, side: u32, after: u32| (before + side + after).next_multiple_of(8).max(64);
        Some((side(left, self.picture.width, right), side(top, self.picture.height, bottom)))
    }

    /// Whether pictures of a request may begin with it.
    ///
    /// # Errors
    /// [`Error::Request`] if it is extended to another size.
    pub(super) fn check(&self, request: &Request) -> Result<()> {
        match self.extended().filter(|size| *size != (request.width, request.height)) {
            None => Ok(()),
            Some((width, height)) => Err(Error::Request {
                what: "--outpaint".into(),
                expected: format!("a request of {width}×{height} pixels, as large as the picture becomes"),
                found: format!("{}×{}", request.width, request.height),
            }),
        }
    }

    /// It and its mask, of the request's size.
    pub(super) fn fit(&self, request: &Request) -> (Image, Option<Image>) {
        let size = (request.width, request.height);
        if let Some([left, _, top, _]) = self.record.outpaint {
            let mask = margins(&self.picture, (left, top), size);
            return (extend(&self.picture, (left, top), size), Some(mask));
        }
        let fitted = |picture: &Image| self.fit.apply(picture, size.0, size.1);
        (fitted(&self.picture), self.mask.as_ref().map(fitted))
    }

    /// Fits it to the request, and encodes it.
    ///
    /// # Errors
    /// Those of [`Pipeline::encode_picture`].
    pub(super) fn fitted(&self, request: &Request, pipeline: &mut Pipeline, check_nodes: bool) -> Result<Fitted> {
        let (picture, mask) = self.fit(request);
        let latents = pipeline.encode_picture(&picture, request.sizes().c, check_nodes)?;
        Ok(Fitted { latents, strength: self.record.strength, picture, mask })
    }
}

/// A picture to begin with, for pictures of one size.
pub(super) struct Fitted {
    latents: HostTensor,
    strength: f32,
    picture: Image,
    mask: Option<Image>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins() {
        assert_eq!("0, 64,8,0".parse(), Ok(Margins([0, 64, 8, 0])));
        for bad in ["", "8", "1,2,3", "1,2,3,4,5", "0,0,0,0", "-1,0,0,0", "1.5,0,0,0", "0,0,0,16385", "nan,0,0,0"] {
            assert!(bad.parse::<Margins>().unwrap_err().ends_with(&format!("got `{bad}`")), "{bad}");
        }
    }
}
