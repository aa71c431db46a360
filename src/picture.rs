//! Pictures that are given: read from files, resized as Pillow does it, normalised for an encoder.

mod normalise;
#[cfg(feature = "pictures")]
mod read;
mod resample;

pub use normalise::{clip_crop, clip_pixels};
#[cfg(feature = "pictures")]
pub use read::{decode, read, size};
pub use resample::{Area, Filter, resample};
