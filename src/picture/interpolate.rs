//! Values of a picture or of latents at another size.

/// Bilinear interpolation between the centres of pixels, which skips pixels where the result is much smaller: `x [h, w, c]` →
/// `[height, width, c]`.
///
/// Source: `torch.nn.functional.interpolate` with `align_corners=False` and without `antialias`.
///
/// # Panics
/// If there are fewer values than `h·w·c`, or a side is 0.
pub fn interpolate(x: &[f32], from: [usize; 2], to: [usize; 2], c: usize) -> Vec<f32> {
    let source = |o: usize, from: usize, to: usize| {
        let at = ((o as f32 + 0.5) * (from as f32 / to as f32) - 0.5).max(0.0);
        let first = (at as usize).min(from - 1);
        (first, (first + 1).min(from - 1), at - first as f32)
    };
    let mut y = Vec::with_capacity(to[0] * to[1] * c);
    for row in 0..to[0] {
        let (top, bottom, v) = source(row, from[0], to[0]);
        for column in 0..to[1] {
            let (left, right, u) = source(column, from[1], to[1]);
            let at = |y: usize, i: usize, ch: usize| x[(y * from[1] + i) * c + ch];
            y.extend((0..c).map(|ch| {
                let upper = at(top, left, ch) * (1.0 - u) + at(top, right, ch) * u;
                let lower = at(bottom, left, ch) * (1.0 - u) + at(bottom, right, ch) * u;
                upper * (1.0 - v) + lower * v
            }));
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_centres() {
        assert_eq!(interpolate(&[0.0, 4.0], [1, 2], [1, 4], 1), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(interpolate(&[1.0, 10.0, 3.0, 30.0], [2, 1], [1, 1], 2), [2.0, 20.0]);
        assert_eq!(interpolate(&[1.0, 2.0, 3.0, 4.0], [2, 2], [2, 2], 1), [1.0, 2.0, 3.0, 4.0]);
    }
}
