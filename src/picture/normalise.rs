//! Pictures as the encoders take them.

use super::{Area, Filter, resample};
use crate::image::Image;

/// What is subtracted from the channels of a picture from 0 to 1, and what they are then divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    mean: [f32; 3],
    std: [f32; 3],
}

impl Statistics {
    /// Those of CLIP's vision tower.
    pub const CLIP: Self = Self { mean: [0.48145466, 0.4578275, 0.40821073], std: [0.26862954, 0.2613026, 0.2757771] };
    /// Those of ImageNet, for EfficientNet.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// None: a picture from 0 to 1, for Stage A.
    pub const NONE: Self = Self { mean: [0.0; 3], std: [1.0; 3] };

    /// A picture's values `[h, w, 3]`, normalised.
    pub fn normalise(&self, picture: &Image) -> Vec<f32> {
        let channels = picture.rgb.iter().enumerate().map(|(i, &value)| (i % 3, f32::from(value) / 255.0));
        channels.map(|(c, value)| (value - self.mean[c]) / self.std[c]).collect()
    }
}

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
