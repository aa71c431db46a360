//! Pictures with margins.

use crate::image::Image;

/// A picture of `width` × `height` pixels with `picture` at `left` and `top`, whose outermost pixels go on to all sides.
///
/// # Panics
/// If `picture` does not lie inside, or is empty.
pub fn extend(picture: &Image, (left, top): (u32, u32), (width, height): (u32, u32)) -> Image {
    let (w, h) = (picture.width, picture.height);
    assert!(left + w <= width && top + h <= height, "{w}×{h} at {left}, {top} in {width}×{height}");
    let columns: Vec<usize> = (0..width).map(|x| 3 * x.saturating_sub(left).min(w - 1) as usize).collect();
    let row = |y: u32| {
        let source = &picture.rgb[y.saturating_sub(top).min(h - 1) as usize * 3 * w as usize..];
        columns.iter().flat_map(|&at| [source[at], source[at + 1], source[at + 2]])
    };
    Image { width, height, rgb: (0..height).flat_map(row).collect() }
}

/// The mask of a picture that [`extend`] has extended: white where the margins are.
pub fn margins(picture: &Image, (left, top): (u32, u32), (width, height): (u32, u32)) -> Image {
    let is_old = |x: u32, y: u32| (left..left + picture.width).contains(&x) && (top..top + picture.height).contains(&y);
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = pixels.flat_map(|(x, y)| [if is_old(x, y) { 0 } else { u8::MAX }; 3]).collect();
    Image { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_go_on() {
        let picture = Image { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
        let extended = extend(&picture, (1, 1), (5, 3));
        let row = [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 4, 5, 6];
        assert_eq!(extended, Image { width: 5, height: 3, rgb: row.repeat(3) });
        let mask: Vec<u8> = margins(&picture, (1, 1), (5, 3)).rgb.iter().step_by(3).copied().collect();
        assert_eq!(mask, [255, 255, 255, 255, 255, 255, 0, 0, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(extend(&picture, (0, 0), (2, 1)), picture);
    }
}
