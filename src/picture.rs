//! Pictures that are given: read from files, resized as Pillow does it, normalised for an encoder.

mod canny;
mod fit;
mod hint;
mod normalise;
#[cfg(feature = "pictures")]
mod read;
mod resample;

pub use canny::{CANNY_MOST, canny};
pub use fit::{Fit, psnr};
pub use hint::{CANNY_THRESHOLDS, canny_hint, inpainting_hint};
pub use normalise::{clip_crop, clip_pixels};
#[cfg(feature = "pictures")]
pub use read::{decode, read, read_mask};
pub use resample::{Area, Filter, resample};
