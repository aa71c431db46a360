//! Pictures that are given: read from files, fitted to a size, resized as Pillow does it, normalised for an encoder.

mod canny;
mod extend;
mod fit;
mod hint;
mod interpolate;
mod mask;
mod normalise;
#[cfg(feature = "pictures")]
mod read;
mod resample;

pub use canny::{CANNY_MOST, canny};
pub use extend::{extend, margins};
pub use fit::{Fit, psnr};
pub use hint::{CANNY_THRESHOLDS, canny_hint, inpainting_hint};
pub use interpolate::interpolate;
pub use mask::{paste_back, repainted_latents};
pub use normalise::{Statistics, clip_crop};
#[cfg(feature = "pictures")]
pub use read::{decode, decode_mask, read, read_mask, size, transparency};
pub use resample::{Area, Filter, resample};
