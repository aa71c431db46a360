//! Reads PNG, JPEG and WebP files, whoever made them.
//!
//! What a file says beyond 8-bit RGB is treated as Pillow's `convert("RGB")` does it: alpha is dropped, of 16 bits the
//! upper 8 are kept (of greys, too, which Pillow clips), palettes and greys become RGB, and colour profiles are not
//! applied. The orientation that a camera noted in EXIF is applied, as `load_image` of `diffusers` does. Of an animation,
//! the first picture is taken.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use crate::error::{Error, Result};
use crate::image::Image;

/// Most bytes of a file.
const FILE_LIMIT: u64 = 256 << 20;
/// Longest side, pixels.
const SIDE_LIMIT: u32 = 32_768;
/// Most pixels of a picture.
const PIXEL_LIMIT: u64 = 100 << 20;
/// Most bytes that a decoder may take: a picture of the most pixels with 16 bits of RGBA, and as much again for itself.
const MEMORY_LIMIT: u64 = 2 * 8 * PIXEL_LIMIT;

/// Reads a picture from a file.
///
/// # Errors
/// [`Error::Disk`] if it cannot be read; [`Error::Picture`] as [`decode`].
pub fn read(path: &Path) -> Result<Image> {
    decode(&bytes_of(path)?, path)
}

/// Reads a mask from a file.
///
/// # Errors
/// As [`read`].
pub fn read_mask(path: &Path) -> Result<Image> {
    decode_mask(&bytes_of(path)?, path)
}

/// Decodes a mask, in grey, from 0, which is to stay, to 255, which is to be painted: how transparent a picture is that is
/// transparent anywhere, and how bright any other. `path` is for messages.
///
/// # Errors
/// As [`decode`].
pub fn decode_mask(bytes: &[u8], path: &Path) -> Result<Image> {
    let picture = dynamic(bytes, path)?;
    Ok(holes(&picture).unwrap_or_else(|| grey(&picture, &picture.to_luma8())))
}

/// How transparent a picture is, as a mask, if it is that anywhere. `path` is for messages.
///
/// # Errors
/// As [`decode`].
pub fn transparency(bytes: &[u8], path: &Path) -> Result<Option<Image>> {
    Ok(holes(&dynamic(bytes, path)?))
}

fn holes(picture: &DynamicImage) -> Option<Image> {
    if !picture.color().has_alpha() {
        return None;
    }
    let holes: Vec<u8> = picture.to_rgba8().pixels().map(|pixel| u8::MAX - pixel.0[3]).collect();
    holes.iter().any(|&hole| hole > 0).then(|| grey(picture, &holes))
}

/// A picture of the same size in grey.
fn grey(picture: &DynamicImage, values: &[u8]) -> Image {
    Image {
        width: picture.width(),
        height: picture.height(),
        rgb: values.iter().flat_map(|&value| [value; 3]).collect(),
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    let disk = |source| Error::Disk { path: path.to_owned(), action: "read", source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)).map_err(disk)?;
    Ok(bytes)
}

/// Width and height of the picture in a file's contents, of which only the beginning is looked at. Those of a picture that
/// is to be turned are those before.
///
/// # Errors
/// [`Error::Picture`] if this is no picture of a known format.
pub fn size(bytes: &[u8], path: &Path) -> Result<(u32, u32)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().expect("memory can be read");
    reader.into_dimensions().map_err(|error| Error::Picture {
        path: path.to_owned(),
        expected: "a PNG, JPEG or WebP picture".into(),
        found: format!("an error: {error}"),
    })
}

/// Decodes the contents of a file. `path` is for messages.
///
/// # Errors
/// [`Error::Picture`] if this is no picture of a known format, if it is damaged, or if it is too large. Nothing is
/// decoded before its size is known.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Image> {
    let picture = dynamic(bytes, path)?;
    Ok(Image { width: picture.width(), height: picture.height(), rgb: rgb(&picture) })
}

/// The picture in these bytes, upright, with the channels that it has.
fn dynamic(bytes: &[u8], path: &Path) -> Result<DynamicImage> {
    let bad =
        |expected: &str, found: String| Error::Picture { path: path.to_owned(), expected: expected.to_owned(), found };
    let failed = |error: ImageError| match error {
        ImageError::Limits(_) => bad("a picture that can be decoded in little memory", error.to_string()),
        error => bad("a whole PNG, JPEG or WebP picture", format!("an error: {error}")),
    };
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(bad(&format!("a file of at most {} MiB", FILE_LIMIT >> 20), "a larger one".to_owned()));
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().expect("memory can be read");
    if reader.format().is_none() {
        let found = if bytes.is_empty() { "an empty file" } else { "something else; convert it" };
        return Err(bad("a PNG, JPEG or WebP picture", found.to_owned()));
    }
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || width.max(height) > SIDE_LIMIT || u64::from(width) * u64::from(height) > PIXEL_LIMIT
    {
        let expected = format!("at most {} million pixels, none of the sides above {SIDE_LIMIT}", PIXEL_LIMIT >> 20);
        return Err(bad(&expected, format!("{width}×{height}; make it smaller")));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MEMORY_LIMIT);
    decoder.set_limits(limits).map_err(failed)?;
    let orientation = decoder.orientation().map_err(failed)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Red, green and blue of every pixel.
fn rgb(picture: &DynamicImage) -> Vec<u8> {
    let upper = |value: u16| (value >> 8) as u8;
    let grey = |value: u8| [value; 3];
    match picture {
        DynamicImage::ImageLuma16(p) => p.pixels().flat_map(|p| grey(upper(p.0[0]))).collect(),
        DynamicImage::ImageLumaA16(p) => p.pixels().flat_map(|p| grey(upper(p.0[0]))).collect(),
        DynamicImage::ImageRgb16(p) => p.as_raw().iter().copied().map(upper).collect(),
        DynamicImage::ImageRgba16(p) => p.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(upper)).collect(),
        picture => picture.to_rgb8().into_raw(),
    }
}
