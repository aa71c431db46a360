//! Pictures of other proportions than those that are wanted, and how alike two pictures are.

use std::fmt;
use std::str::FromStr;

use super::{Area, Filter, extend, resample};
use crate::error::Error;
use crate::image::Image;

/// What becomes of a picture of other proportions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// It covers all of the wanted size, and what extends beyond it on two sides is cut off.
    #[default]
    Cover,
    /// All of it is kept, and its outermost pixels continue on two sides.
    Contain,
    /// It is stretched.
    Stretch,
}

impl FromStr for Fit {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "cover" => Ok(Self::Cover),
            "contain" => Ok(Self::Contain),
            "stretch" => Ok(Self::Stretch),
            _ => Err(Error::Request {
                what: "fit".into(),
                expected: "cover, contain or stretch".into(),
                found: format!("`{name}`"),
            }),
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cover => "cover",
            Self::Contain => "contain",
            Self::Stretch => "stretch",
        })
    }
}

impl Fit {
    /// The picture at `width` × `height` pixels, resized by the bilinear filter.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn apply(self, picture: &Image, width: u32, height: u32) -> Image {
        let whole = Area::of(picture);
        match self {
            Fit::Stretch => resample(picture, whole, (width, height), (0..width, 0..height), Filter::Bilinear),
            Fit::Cover => {
                let area = Area::covering(picture, width, height);
                resample(picture, area, (width, height), (0..width, 0..height), Filter::Bilinear)
            }
            Fit::Contain => {
                let scale = |to: u32, from: u32| f64::from(to) / f64::from(from);
                let scale = scale(width, picture.width).min(scale(height, picture.height));
                let side = |from: u32, to: u32| ((f64::from(from) * scale).round() as u32).clamp(1, to);
                let (w, h) = (side(picture.width, width), side(picture.height, height));
                let inner = resample(picture, whole, (w, h), (0..w, 0..h), Filter::Bilinear);
                extend(&inner, ((width - w) / 2, (height - h) / 2), (width, height))
            }
        }
    }
}

/// The peak signal-to-noise ratio of two pictures of one size, in decibels; infinite if they are equal.
///
/// # Panics
/// If their sizes differ.
pub fn psnr(a: &Image, b: &Image) -> f64 {
    assert_eq!((a.width, a.height, a.rgb.len()), (b.width, b.height, b.rgb.len()));
    let square = |(&a, &b): (&u8, &u8)| (f64::from(a) - f64::from(b)).powi(2);
    let mean = a.rgb.iter().zip(&b.rgb).map(square).sum::<f64>() / a.rgb.len() as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of red 0, 60, 120, …
    fn columns(width: u32, height: u32) -> Image {
        let rgb = (0..height).flat_map(|_| (0..width).flat_map(|x| [60 * x as u8, 0, 0])).collect();
        Image { width, height, rgb }
    }

    fn reds(image: &Image, row: usize) -> Vec<u8> {
        image.rgb.chunks(image.width as usize * 3).nth(row).unwrap().iter().step_by(3).copied().collect()
    }

    #[test]
    fn fits() {
        let picture = columns(4, 2);
        assert_eq!(reds(&Fit::Cover.apply(&picture, 2, 2), 1), [60, 120]);
        assert_eq!(reds(&Fit::Stretch.apply(&picture, 4, 9), 8), [0, 60, 120, 180]);
        let contained = Fit::Contain.apply(&columns(2, 4), 8, 4);
        assert_eq!((contained.width, contained.height), (8, 4));
        assert_eq!(reds(&contained, 2), [0, 0, 0, 0, 60, 60, 60, 60]);
        for fit in [Fit::Cover, Fit::Contain, Fit::Stretch] {
            assert_eq!(fit.apply(&picture, 4, 2), picture);
            assert_eq!(fit.to_string().parse::<Fit>().unwrap(), fit);
            let (narrow, wide) = (columns(1, 200), columns(4, 1));
            assert_eq!(fit.apply(&narrow, 64, 64).rgb.len() + fit.apply(&wide, 1, 3).rgb.len(), 64 * 64 * 3 + 9);
        }
        assert!("crop".parse::<Fit>().unwrap_err().to_string().contains("`crop`"));
    }

    #[test]
    fn alike() {
        let picture = columns(4, 2);
        let mut other = picture.clone();
        other.rgb.iter_mut().for_each(|value| *value = value.wrapping_add(1));
        assert_eq!(psnr(&picture, &picture), f64::INFINITY);
        assert!((psnr(&picture, &other) - 48.1308).abs() < 1e-3);
    }
}
