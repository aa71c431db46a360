//! Pictures as CLIP's vision tower takes them.

use super::{Area, Filter, resample};
use crate::image::Image;

/// What is subtracted from the channels of a picture from 0 to 1.
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// What they are then divided by.
const STD: [f32; 3] = [0.26862954, 0.2613026, 0.2757771];

/// The middle of a picture, `side` × `side` pixels, after its shorter side was resized to `side`.
///
/// Source: `CLIPImageProcessor` of `transformers`.
///
/// # Panics
/// If `side` or a side of the picture is 0.
pub fn clip_crop(picture: &Image, side: u32) -> Image {
    let (short, long) = (picture.width.min(picture.height), picture.width.max(picture.height));
    let other = u64::from(side) * u64::from(long) / u64::from(short);
    let other = u32::try_from(other).unwrap_or(u32::MAX);
    let size = if picture.width <= picture.height { (side, other) } else { (other, side) };
    let middle = |of: u32| (of - side) / 2..(of - side) / 2 + side;
    resample(picture, Area::of(picture), size, (middle(size.0), middle(size.1)), Filter::Bicubic)
}

/// What the vision tower takes of a picture of any size, `[side, side, 3]`: the middle, normalised.
///
/// # Panics
/// As [`clip_crop`].
pub fn clip_pixels(picture: &Image, side: u32) -> Vec<f32> {
    let channels = clip_crop(picture, side).rgb.into_iter().enumerate();
    channels.map(|(i, value)| (f32::from(value) / 255.0 - MEAN[i % 3]) / STD[i % 3]).collect()
}
