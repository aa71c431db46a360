use super::{Case, Define, Operands, Shapes, slot};
use crate::shape::Shape;

/// Pixels to channels: `y[row, col, ch·p² + i·p + j] = x[row·p + i, col·p + j, ch]`.
///
/// Operands: `x [n, h·p, w·p, c]`. Result `[n, h, w, c·p²]`. The inverse of
/// [`PixelShuffle`](super::PixelShuffle).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelUnshuffle {
    /// Pixels a side, `p`.
    pub patch: usize,
}

impl Define for PixelUnshuffle {
    fn name(&self) -> &'static str {
        "pixel_unshuffle"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        let p = self.patch;
        match *inputs {
            [Some(x)] if x.h % p == 0 && x.w % p == 0 => Ok(Shape::new(x.n, x.h / p, x.w / p, x.c * p * p)),
            _ => Err(format!("x [n, h, w, c] with h and w multiples of {p}")),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.patch as u32]
    }

    fn as_factor(&self, _: usize, is_factor: bool) -> bool {
        is_factor
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let (x, p) = (inputs[0].expect("x"), self.patch);
        for (i, y) in out.iter_mut().enumerate() {
            let (ch, col, line) = (i % shape.c, i / shape.c % shape.w, i / shape.c / shape.w); // line counts over images
            let (row, column) = (line * p + ch % (p * p) / p, col * p + ch % p);
            *y = x.f32()[(row * x.shape.w + column) * x.shape.c + ch / (p * p)];
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    [2, 1, 3].map(|patch| Case::new(PixelUnshuffle { patch }, vec![slot(2, 6, 12, 5)])).to_vec()
}
