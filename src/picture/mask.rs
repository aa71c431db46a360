//! Masks: pictures in grey that say where another picture is repainted, from 0, nowhere, to 255.

use super::{Area, Filter, resample};
use crate::image::Image;

/// Which pixels of latents of `size` (height, width) lie where the mask repaints anything, row by row.
///
/// # Panics
/// If a side is 0.
pub fn repainted_latents(mask: &Image, size: (usize, usize)) -> Vec<bool> {
    let (height, width) = (size.0 as u32, size.1 as u32);
    let small = resample(mask, Area::of(mask), (width, height), (0..width, 0..height), Filter::Bilinear);
    small.rgb.iter().step_by(3).map(|&value| value > 0).collect()
}

/// Puts `original` back into a picture that was made of it, where the `mask` repaints nothing. Inside of the mask, the two
/// fade into each other over a thirty-second of the shorter side.
///
/// # Panics
/// If the pictures differ in size.
pub fn paste_back(made: &mut Image, original: &Image, mask: &Image) {
    let (width, height) = (made.width as usize, made.height as usize);
    assert!([original, mask].iter().all(|image| image.rgb.len() == made.rgb.len() && image.width == made.width));
    let values: Vec<f32> = mask.rgb.iter().step_by(3).map(|&value| f32::from(value) / 255.0).collect();
    let radius = (width.min(height) / 32).max(1);
    let rows = blur(&values, width, radius);
    let blurred = transposed(&blur(&transposed(&rows, width), height, radius), height);
    for (i, (&mask, near)) in values.iter().zip(blurred).enumerate() {
        // At a straight edge, half of what is near is inside.
        let new = mask.min((2.0 * near - 1.0).clamp(0.0, 1.0));
        for (made, &old) in made.rgb[3 * i..3 * i + 3].iter_mut().zip(&original.rgb[3 * i..]) {
            *made = (f32::from(*made) * new + f32::from(old) * (1.0 - new)).round() as u8;
        }
    }
}

/// The mean of the `2·radius + 1` values around each of every row. Rows go on with their ends.
fn blur(values: &[f32], width: usize, radius: usize) -> Vec<f32> {
    let of_row = |row: &[f32]| -> Vec<f32> {
        let at = |x: usize| row[x.saturating_sub(radius).min(width - 1)];
        let mut sum: f64 = (0..=2 * radius).map(|x| f64::from(at(x))).sum();
        let mean = |x: usize| {
            let mean = sum / (2 * radius + 1) as f64;
            sum += f64::from(at(x + 2 * radius + 1)) - f64::from(at(x));
            mean as f32
        };
        (0..width).map(mean).collect()
    };
    values.chunks(width).flat_map(of_row).collect()
}

/// Columns as rows, of rows of `width` values.
fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|x| values[x..].iter().step_by(width).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with one value in the columns from `from` on, and another one before.
    fn halves(width: u32, height: u32, from: u32, [before, after]: [u8; 2]) -> Image {
        let row = (0..width).flat_map(|x| [if x < from { before } else { after }; 3]);
        Image { width, height, rgb: row.collect::<Vec<u8>>().repeat(height as usize) }
    }

    #[test]
    fn what_is_not_masked_stays() {
        let (original, mask) = (halves(96, 64, 0, [0, 10]), halves(96, 64, 40, [0, 255]));
        let mut made = halves(96, 64, 0, [0, 250]);
        paste_back(&mut made, &original, &mask);
        for row in made.rgb.chunks(3 * 96) {
            assert!(row[..3 * 40].iter().all(|&value| value == 10), "outside");
            assert!(row[3 * 43..].iter().all(|&value| value == 250), "inside");
            assert!(row[3 * 40] < row[3 * 41] && row[3 * 41] < 250, "in between: {:?}", &row[3 * 39..3 * 44]);
        }
        let mut made = halves(96, 64, 0, [0, 250]);
        paste_back(&mut made, &original, &halves(96, 64, 0, [0, 255]));
        assert_eq!(made, halves(96, 64, 0, [0, 250]), "all of it");
        paste_back(&mut made, &original, &halves(96, 64, 0, [0, 0]));
        assert_eq!(made, original, "nothing");
        paste_back(&mut made, &halves(96, 64, 0, [0, 110]), &halves(96, 64, 0, [0, 51]));
        assert_eq!(made, halves(96, 64, 0, [0, 110]), "too little to see");
    }

    #[test]
    fn latents_that_are_touched() {
        let mask = halves(96, 64, 40, [0, 255]);
        assert_eq!(repainted_latents(&mask, (2, 6)), [false, false, true, true, true, true].repeat(2));
    }
}
