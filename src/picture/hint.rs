//! Pictures as ControlNets take them.

use super::{canny, interpolate};
use crate::image::Image;

/// The thresholds that the published canny ControlNet was trained with.
pub const CANNY_THRESHOLDS: (u16, u16) = (100, 200);

/// Side of the picture that edges are found in, pixels.
const SIDE: usize = 224;

/// The hint of a canny ControlNet, `[height, width, 1]` from 0 to 1: edges that were found at 224 × 224 pixels, as when it
/// was trained. A picture of nothing but black and white is taken for edges that were found already.
///
/// Source: `CannyFilter` of StableCascade.
pub fn canny_hint(picture: &Image) -> Vec<f32> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let values = |pixels: &[u8]| pixels.iter().map(|v| f32::from(*v) / 255.0).collect::<Vec<f32>>();
    if picture.rgb.chunks_exact(3).all(|p| matches!(p, [0, 0, 0] | [255, 255, 255])) {
        return values(&picture.rgb.iter().step_by(3).copied().collect::<Vec<u8>>());
    }
    let small = interpolate(&values(&picture.rgb), [height, width], [SIDE, SIDE], 3);
    let rgb = small.iter().map(|v| (v * 255.0) as u8).collect();
    let small = Image { width: SIDE as u32, height: SIDE as u32, rgb };
    let edges = canny(&small, CANNY_THRESHOLDS.0, CANNY_THRESHOLDS.1);
    interpolate(&values(&edges), [SIDE, SIDE], [height, width], 1)
}

/// The hint of an inpainting ControlNet, `[height, width, 4]`: the picture from 0 to 1, white where it is to be painted, and
/// 1 there in a fourth channel. `mask` says where that is, `[height, width]`.
///
/// # Panics
/// If there are not as many values of the mask as pixels.
pub fn inpainting_hint(picture: &Image, mask: &[bool]) -> Vec<f32> {
    assert_eq!(picture.rgb.len(), 3 * mask.len(), "a value for each pixel");
    let pixel = |(rgb, painted): (&[u8], &bool)| match painted {
        true => [1.0; 4],
        false => [f32::from(rgb[0]) / 255.0, f32::from(rgb[1]) / 255.0, f32::from(rgb[2]) / 255.0, 0.0],
    };
    picture.rgb.chunks_exact(3).zip(mask).flat_map(pixel).collect()
}
