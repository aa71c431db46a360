//! Pictures that come with a request: as files of a form, or as data in JSON. Nothing is decoded before its size is known.

use std::path::Path;

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::fault::Fault;
use super::fields::{Fields, PICTURES_LIMIT};
use super::order::{About, Initial, Shown};
use crate::image::{Image, InitialPicture};
use crate::picture::{self, Fit};

/// Most pictures that Stage C is shown.
const SHOWN: usize = 8;
/// Longest side of a picture, pixels, and most bytes that it may take in memory.
const SIDE: u32 = 8192;
const BYTES: u64 = 256 << 20;

/// Files of a form.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// A picture to begin with, or to vary.
    pub(super) image: Option<Vec<u8>>,
    /// Where the picture is to change.
    pub(super) mask: Option<Vec<u8>>,
    /// The picture is shown to Stage C, rather than changed.
    pub(super) vary: bool,
}

/// The pictures that Stage C is shown: that of a form, and those of `image_prompts`.
pub(super) fn shown(fields: &mut Fields, files: &mut Files, about: &About) -> Result<Vec<Shown>, Fault> {
    let of_form = files.image.take_if(|_| files.vary);
    let mut shown = Vec::new();
    if let Some(bytes) = of_form {
        shown.push(Shown { picture: decoded("image", &bytes)?, weight: 1.0, name: "image".into() });
    }
    shown.extend(fields.list("image_prompts", SHOWN, image_prompt)?);
    if !shown.is_empty() && !about.takes_pictures {
        return Err(unsupported("this model takes no pictures: it has no image encoder"));
    }
    Ok(shown)
}

/// The picture to begin with: `image`, with `mask`, `strength` and `fit`.
pub(super) fn initial(fields: &mut Fields, files: Files, about: &About) -> Result<Option<Initial>, Fault> {
    let mut of = |name: &str, file: Option<Vec<u8>>| match file {
        Some(bytes) => Ok(Some(bytes)),
        None => fields.text(name, PICTURES_LIMIT)?.map(|text| data(&text, name)).transpose(),
    };
    let (image, mask) = (of("image", files.image)?, of("mask", files.mask)?);
    let strength = fields.number("strength", 0.0..=1.0)?;
    let fit = fields.choice("fit", &["cover", "contain", "stretch"])?;
    let Some(image) = image else {
        let needs_one = [("mask", mask.is_some()), ("strength", strength.is_some()), ("fit", fit.is_some())];
        return match needs_one.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => {
                let message = format!("`{name}` belongs to `image`, the picture to begin with, which is missing");
                Err(Fault::field(name, "missing_parameter", message))
            }
            None => Ok(None),
        };
    };
    let fit = fit.map_or(Ok(Fit::default()), str::parse)?;
    let picture = decoded("image", &image)?;
    let mask = match mask {
        Some(mask) => Some(("mask", mask_of("mask", &mask)?)),
        None => picture::transparency(&image, "image".as_ref())?.map(|mask| ("image", mask)),
    };
    begin_with(picture, mask, strength, fit, about).map(Some)
}

/// A picture to begin with. What a mask says is to change does so wholly, unless a strength is given.
pub(super) fn begin_with(
    picture: Image,
    mask: Option<(&str, Image)>,
    strength: Option<f64>,
    fit: Fit,
    about: &About,
) -> Result<Initial, Fault> {
    if !about.begins_with_pictures {
        return Err(unsupported("this model changes no pictures: it has no EfficientNet encoder"));
    }
    let size = |image: &Image| (image.width, image.height);
    if let Some((name, mask)) = mask.as_ref().filter(|(_, mask)| size(mask) != size(&picture)) {
        let message = format!(
            "`{name}` has {}×{} pixels, and the picture {}×{}; they must have the same size",
            mask.width, mask.height, picture.width, picture.height
        );
        return Err(Fault::field(name, "invalid_image", message));
    }
    let usual = if mask.is_some() { 1.0 } else { InitialPicture::STRENGTH };
    let strength = strength.map_or(usual, |strength| strength as f32);
    let name_of_mask = mask.as_ref().map(|(name, _)| (*name).to_owned());
    let record =
        InitialPicture { file: "image".into(), strength, fit: fit.to_string(), mask: name_of_mask, outpaint: None };
    Ok(Initial { picture, mask: mask.map(|(_, mask)| mask), fit, record })
}

fn unsupported(message: &str) -> Fault {
    Fault::field("image", "unsupported", message).with(StatusCode::UNPROCESSABLE_ENTITY)
}

fn image_prompt(mut fields: Fields) -> Result<Shown, Fault> {
    const NAME: &str = "image_prompts";
    let missing = || Fault::field(NAME, "invalid_value", "each of `image_prompts` must have an `image`");
    let text = fields.text("image", PICTURES_LIMIT)?.ok_or_else(missing)?;
    let weight = fields.number("weight", -10.0..=10.0)?.unwrap_or(1.0) as f32;
    // A name is for the record alone; what clients call their files never becomes a path.
    let name = fields.text("name", 256)?.unwrap_or_else(|| NAME.to_owned());
    fields.end()?;
    Ok(Shown { picture: decoded(NAME, &data(&text, NAME)?)?, weight, name })
}

/// The bytes of a data URL, or of base64 alone. No other address is ever looked up.
pub(super) fn data(text: &str, param: &str) -> Result<Vec<u8>, Fault> {
    let encoded = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map(|(_, encoded)| encoded),
        None => Some(text),
    };
    let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    bytes
        .ok_or_else(|| Fault::field(param, "invalid_image", "a picture must be a data URL or base64, never an address"))
}

/// A picture that a client sent, in the field `param`.
pub(super) fn decoded(param: &str, bytes: &[u8]) -> Result<Image, Fault> {
    check_size(param, bytes)?;
    Ok(picture::decode(bytes, Path::new(param))?)
}

/// A mask that a client sent, as [`picture::decode_mask`] reads it.
pub(super) fn mask_of(param: &str, bytes: &[u8]) -> Result<Image, Fault> {
    check_size(param, bytes)?;
    Ok(picture::decode_mask(bytes, Path::new(param))?)
}

fn check_size(param: &str, bytes: &[u8]) -> Result<(), Fault> {
    let (width, height) = picture::size(bytes, Path::new(param))?;
    // Decoders take up to 8 bytes for a pixel, those of 16 bits a channel.
    if width.max(height) > SIDE || u64::from(width) * u64::from(height) * 8 > BYTES {
        let message = format!(
            "the picture has {width}×{height} pixels; at most {SIDE} a side and {} million in all",
            BYTES >> 23
        );
        return Err(Fault::field(param, "invalid_image", message));
    }
    Ok(())
}
