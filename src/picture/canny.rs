//! Canny's edge detector, with the results of OpenCV.

use crate::image::Image;

/// Most that a gradient may be of either threshold: 4·255 along each axis.
pub const CANNY_MOST: u16 = 2040;

/// tan(22.5°) in units of 2^-15, as OpenCV rounds it.
const TAN_22: i32 = 13_573;

/// A gradient: derivatives along x and y of the channel where it is largest, and `|dx| + |dy|`.
#[derive(Clone, Copy, Default)]
struct Gradient {
    dx: i32,
    dy: i32,
    size: i32,
}

/// The edges of a picture, 255 on an edge and 0 elsewhere, `[height, width]`: pixels whose gradient is a maximum across
/// the edge and above `low`, where they are connected with one above `high`.
///
/// Source: `cv2.Canny(picture, low, high)` of OpenCV: 3×3 Sobel derivatives of each channel with replicated borders, the
/// channel with the largest `|dx| + |dy|` (the first of equal ones), thresholds of which the smaller one counts as `low`.
pub fn canny(picture: &Image, low: u16, high: u16) -> Vec<u8> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let (low, high) = (i32::from(low.min(high)), i32::from(low.max(high)));
    let gradients = gradients(picture);
    let size = |x: usize, y: usize, dx: isize, dy: isize| {
        let at = x.checked_add_signed(dx).zip(y.checked_add_signed(dy));
        at.filter(|(x, y)| *x < width && *y < height).map_or(0, |(x, y)| gradients[y * width + x].size)
    };
    // Whether a pixel is larger than its neighbours across the edge; where an edge is equally large on two pixels, one of
    // them is kept along an axis, and none along a diagonal.
    let is_maximum = |x: usize, y: usize| {
        let Gradient { dx, dy, size: m } = gradients[y * width + x];
        let (across, along) = (dx.abs() * TAN_22, dy.abs() << 15);
        if along < across {
            m > size(x, y, -1, 0) && m >= size(x, y, 1, 0)
        } else if along > across + (dx.abs() << 16) {
            m > size(x, y, 0, -1) && m >= size(x, y, 0, 1)
        } else {
            let side = if (dx ^ dy) < 0 { -1 } else { 1 };
            m > size(x, y, -side, -1) && m > size(x, y, side, 1)
        }
    };
    let mut edges = vec![0u8; width * height];
    let mut open = Vec::new();
    const WEAK: u8 = 1;
    for (i, edge) in edges.iter_mut().enumerate() {
        let m = gradients[i].size;
        if m > low && is_maximum(i % width, i / width) {
            *edge = if m > high { 255 } else { WEAK };
            open.extend((m > high).then_some(i));
        }
    }
    // Weak pixels that touch an edge belong to it.
    while let Some(i) = open.pop() {
        let (x, y) = (i % width, i / width);
        for y in y.saturating_sub(1)..(y + 2).min(height) {
            for x in x.saturating_sub(1)..(x + 2).min(width) {
                let at = y * width + x;
                if edges[at] == WEAK {
                    edges[at] = 255;
                    open.push(at);
                }
            }
        }
    }
    edges.iter_mut().filter(|edge| **edge == WEAK).for_each(|edge| *edge = 0);
    edges
}

/// The gradient of every pixel.
fn gradients(picture: &Image) -> Vec<Gradient> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let near = |i: usize, to: usize, of: usize| (i + to).saturating_sub(1).min(of - 1);
    let mut all = Vec::with_capacity(width * height);
    for y in 0..height {
        let rows = [0, 1, 2].map(|to| &picture.rgb[near(y, to, height) * width * 3..][..width * 3]);
        for x in 0..width {
            let columns = [0, 1, 2].map(|to| 3 * near(x, to, width));
            let of = |channel: usize| {
                let p = |row: usize, column: usize| i32::from(rows[row][columns[column] + channel]);
                let dx = p(0, 2) - p(0, 0) + 2 * (p(1, 2) - p(1, 0)) + p(2, 2) - p(2, 0);
                let dy = p(2, 0) - p(0, 0) + 2 * (p(2, 1) - p(0, 1)) + p(2, 2) - p(0, 2);
                Gradient { dx, dy, size: dx.abs() + dy.abs() }
            };
            let larger = |best: Gradient, channel| {
                let other = of(channel);
                if other.size > best.size { other } else { best }
            };
            all.push((1..3).fold(of(0), larger));
        }
    }
    all
}
