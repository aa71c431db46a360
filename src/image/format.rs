//! Formats of picture files: PNG, JPEG, WebP.

use std::path::Path;

use image_webp::{ColorType, WebPEncoder};
use jpeg_encoder::{Encoder, SamplingFactor};

use super::{Image, Record, exif};
use crate::error::{Error, Result};
use crate::output::write_atomically;

/// A format of picture files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Without loss. The record is in text chunks.
    Png,
    /// With loss, which `quality` from 1 to 100 limits. The record is in the EXIF data.
    Jpeg {
        /// 1 (small) to 100 (nearly without loss).
        quality: u8,
    },
    /// Without loss, smaller than PNG. The record is in the EXIF data.
    Webp,
}

impl Format {
    /// Quality of a JPEG file where nobody says which.
    pub const QUALITY: u8 = 90;

    /// The format that a file's ending names; PNG without an ending.
    pub fn of(path: &Path) -> Option<Self> {
        let Some(ending) = path.extension() else { return Some(Format::Png) };
        match ending.to_str()?.to_ascii_lowercase().as_str() {
            "png" => Some(Format::Png),
            "jpg" | "jpeg" => Some(Format::Jpeg { quality: Self::QUALITY }),
            "webp" => Some(Format::Webp),
            _ => None,
        }
    }

    /// Whether a file of this format can carry the record.
    ///
    /// # Errors
    /// [`Error::Request`] if it is too long.
    pub fn check(self, record: &Record) -> Result<()> {
        const MOST: usize = 65_000;
        match self {
            Format::Jpeg { .. } if exif::write(record)?.len() > MOST => Err(Error::Request {
                what: "prompts".into(),
                expected: "a record of at most 65000 bytes, which is what a JPEG file carries; PNG and WebP carry more"
                    .into(),
                found: format!("a prompt of {} bytes", record.request.prompt_of(record.image).len()),
            }),
            _ => Ok(()),
        }
    }
}

impl Image {
    /// Writes a picture file in the format that its ending names, in place of one that exists. It appears whole or
    /// not at all.
    ///
    /// # Errors
    /// [`Error::Request`] for another ending, [`Error::Shape`] if `rgb` is not `[height, width, 3]`,
    /// [`Error::Disk`] if writing fails.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let format = Format::of(path).ok_or_else(|| Error::Request {
            what: path.display().to_string(),
            expected: "a name that ends in .png, .jpg, .jpeg or .webp".into(),
            found: "another".into(),
        })?;
        write_atomically(path, &self.to_bytes(format, None)?, true)
    }

    /// The picture as a file, which carries `record` if there is one.
    ///
    /// # Errors
    /// [`Error::Shape`] if `rgb` is not `[height, width, 3]` or a side is 0 or too long for the format,
    /// [`Error::Request`] if the format cannot carry the record.
    pub fn to_bytes(&self, format: Format, record: Option<&Record>) -> Result<Vec<u8>> {
        let wrong = |e: &dyn std::fmt::Display| Error::Shape {
            at: "image".into(),
            op: "encode",
            expected: format!("[{}, {}, 3] bytes, of sides from 1 to 16384", self.height, self.width),
            found: format!("{} bytes ({e})", self.rgb.len()),
        };
        let (width, height) = (self.width as usize, self.height as usize);
        if width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) != Some(self.rgb.len()) {
            return Err(wrong(&"another number"));
        }
        record.map_or(Ok(()), |record| format.check(record))?;
        let about = record.map(exif::write).transpose()?;
        let mut bytes = Vec::new();
        match format {
            Format::Png => self.write_png(record, &mut bytes).map_err(|e| wrong(&e))?,
            Format::Jpeg { quality } => {
                let side = |side: u32| u16::try_from(side).map_err(|e| wrong(&e));
                let mut encoder = Encoder::new(&mut bytes, quality.clamp(1, 100));
                // The colours of the smallest things are seen in pictures that are drawn.
                encoder.set_sampling_factor(SamplingFactor::R_4_4_4);
                encoder.set_optimized_huffman_tables(true);
                if let Some(about) = about {
                    encoder.add_exif_metadata(&about).map_err(|e| wrong(&e))?;
                }
                let (width, height) = (side(self.width)?, side(self.height)?);
                encoder.encode(&self.rgb, width, height, jpeg_encoder::ColorType::Rgb).map_err(|e| wrong(&e))?;
            }
            Format::Webp => {
                let mut encoder = WebPEncoder::new(&mut bytes);
                about.into_iter().for_each(|about| encoder.set_exif_metadata(about));
                encoder.encode(&self.rgb, self.width, self.height, ColorType::Rgb8).map_err(|e| wrong(&e))?;
            }
        }
        Ok(bytes)
    }
}
