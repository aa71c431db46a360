//! Resizing as Pillow does it.

use std::ops::Range;

use rayon::prelude::*;

use crate::image::Image;

/// How neighbouring pixels are weighted. When a picture becomes smaller, the filter is stretched to cover all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Falls off linearly over one pixel.
    Bilinear,
    /// Cubic over two pixels, with `a = −0.5`.
    Bicubic,
}

impl Filter {
    /// Its radius in pixels of the result, or of the source where the result is larger.
    fn radius(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Filter::Bicubic => 0.0,
        }
    }
}

/// A rectangle of a picture, pixels. Sides may lie between pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    /// From left to right.
    pub x: [f64; 2],
    /// From top to bottom.
    pub y: [f64; 2],
}

impl Area {
    /// All of a picture.
    pub fn of(picture: &Image) -> Self {
        Self { x: [0.0, picture.width.into()], y: [0.0, picture.height.into()] }
    }

    /// The largest area in the middle of a picture that has the proportions of `width` × `height`.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn covering(picture: &Image, width: u32, height: u32) -> Self {
        let from = [picture.width, picture.height].map(f64::from);
        let to = [width, height].map(f64::from);
        let scale = (from[0] / to[0]).min(from[1] / to[1]);
        let [x, y] = [0, 1].map(|axis| {
            let cut = ((from[axis] - to[axis] * scale) / 2.0).max(0.0);
            [cut, from[axis] - cut]
        });
        Self { x, y }
    }
}

/// The `area` of a picture, resized to `size` (width, height), of which only the `window` (columns, rows) is
/// computed: a crop of the result costs no more than what is left of it.
///
/// Rows are filtered first, then columns, and each pass rounds to 8 bits.
///
/// Source: `ImagingResample` of Pillow.
///
/// # Panics
/// If `area` is not inside of the picture, or `window` is not inside of `size`, or one of them is empty.
pub fn resample(
    picture: &Image,
    area: Area,
    size: (u32, u32),
    window: (Range<u32>, Range<u32>),
    filter: Filter,
) -> Image {
    let (width, height) = (picture.width as usize, picture.height as usize);
    assert!(area.x[0] >= 0.0 && area.x[0] < area.x[1] && area.x[1] <= width as f64, "{area:?} in {width} columns");
    assert!(area.y[0] >= 0.0 && area.y[0] < area.y[1] && area.y[1] <= height as f64, "{area:?} in {height} rows");
    assert!(!window.0.is_empty() && window.0.end <= size.0 && !window.1.is_empty() && window.1.end <= size.1);
    let columns = taps(filter, area.x, width, size.0, window.0.clone());
    let lines = taps(filter, area.y, height, size.1, window.1.clone());
    let (to_width, to_height) = (columns.len(), lines.len());

    // Only the lines that the second pass reads.
    let first = lines.iter().map(|tap| tap.first).min().unwrap_or(0);
    let last = lines.iter().map(|tap| tap.first + tap.weights.len()).max().unwrap_or(0);
    let mut narrow = vec![0u8; (last - first) * to_width * 3];
    narrow.par_chunks_mut(to_width * 3).enumerate().for_each(|(line, out)| {
        let source = &picture.rgb[(first + line) * width * 3..][..width * 3];
        for (pixel, tap) in out.chunks_exact_mut(3).zip(&columns) {
            let pixels = source[tap.first * 3..].chunks_exact(3);
            let sum = tap.sum(pixels.map(|pixel| [pixel[0], pixel[1], pixel[2]]));
            pixel.copy_from_slice(&sum);
        }
    });
    let mut rgb = vec![0u8; to_height * to_width * 3];
    rgb.par_chunks_mut(to_width * 3).zip(&lines).for_each(|(out, tap)| {
        let source = &narrow[(tap.first - first) * to_width * 3..];
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            let lines = source.chunks_exact(to_width * 3);
            let sum = tap.sum(lines.map(|line| [line[x * 3], line[x * 3 + 1], line[x * 3 + 2]]));
            pixel.copy_from_slice(&sum);
        }
    });
    Image { width: to_width as u32, height: to_height as u32, rgb }
}

/// What one pixel of the result takes from consecutive pixels of the source.
struct Tap {
    /// The first of these pixels.
    first: usize,
    /// Their weights in units of `2^-22`.
    weights: Vec<i32>,
}

/// Bits after the point of a weight.
const BITS: u32 = 22;

impl Tap {
    /// The weighted sum of RGB pixels, rounded to 8 bits.
    fn sum(&self, pixels: impl Iterator<Item = [u8; 3]>) -> [u8; 3] {
        let mut sums = [1i32 << (BITS - 1); 3];
        for (weight, pixel) in self.weights.iter().zip(pixels) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum = sum.wrapping_add(weight.wrapping_mul(value.into()));
            }
        }
        sums.map(|sum| (sum >> BITS).clamp(0, 255) as u8)
    }
}

/// The taps of a `window` of `to` pixels that `span` of `from` pixels becomes.
fn taps(filter: Filter, span: [f64; 2], from: usize, to: u32, window: Range<u32>) -> Vec<Tap> {
    if span == [0.0, from as f64] && to as usize == from {
        let copy = |i: u32| Tap { first: i as usize, weights: vec![1 << BITS] };
        return window.map(copy).collect();
    }
    let scale = (span[1] - span[0]) / f64::from(to);
    let stretch = scale.max(1.0);
    let radius = filter.radius() * stretch;
    let tap = |i: u32| {
        let center = span[0] + (f64::from(i) + 0.5) * scale;
        let first = ((center - radius + 0.5) as i64).max(0) as usize;
        let end = ((center + radius + 0.5) as usize).min(from);
        let weight = |x: usize| filter.weight((x as f64 - center + 0.5) * (1.0 / stretch));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: &f64| {
            let w = if total == 0.0 { *w } else { w / total } * f64::from(1u32 << BITS);
            (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
        };
        Tap { first, weights: weights.iter().map(fixed).collect() }
    };
    window.map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Image {
        let rgb = (0..width * height).flat_map(|i| [(i * 7 % 251) as u8, (i * 13 % 241) as u8, (i % 256) as u8]);
        Image { width, height, rgb: rgb.collect() }
    }

    fn resized(picture: &Image, size: (u32, u32), filter: Filter) -> Image {
        resample(picture, Area::of(picture), size, (0..size.0, 0..size.1), filter)
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let picture = gradient(7, 5);
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            assert_eq!(resized(&picture, (7, 5), filter), picture);
        }
    }

    #[test]
    fn one_colour_stays() {
        let picture = Image { width: 9, height: 4, rgb: [200, 3, 255].repeat(36) };
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for size in [(1, 1), (4, 9), (30, 2)] {
                assert!(resized(&picture, size, filter).rgb.chunks(3).all(|pixel| pixel == [200, 3, 255]), "{size:?}");
            }
        }
    }

    #[test]
    fn a_window_is_a_crop_of_the_whole() {
        let picture = gradient(40, 23);
        let whole = resized(&picture, (17, 31), Filter::Bicubic);
        let window = resample(&picture, Area::of(&picture), (17, 31), (5..9, 20..31), Filter::Bicubic);
        for (y, row) in window.rgb.chunks(4 * 3).enumerate() {
            assert_eq!(row, &whole.rgb[((20 + y) * 17 + 5) * 3..][..12]);
        }
    }
}
