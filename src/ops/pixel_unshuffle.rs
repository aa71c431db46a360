use super::{Case, Define, Operands, Shapes, slot};
use crate::shape::Shape;

/// Rearranges pixels into channels: `y[row, col, ch·p² + i·p + j] = x[row·p + i, col·p + j, ch]`.
///
/// Operands: `x [n, h·p, w·p, c]`. Result `[n, h, w, c·p²]`; rows and columns of `x` that do not fill a patch
/// are dropped, as by a [`Conv2d`](super::Conv2d) of stride `p`. It is the inverse of
/// [`PixelShuffle`](super::PixelShuffle).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelUnshuffle {
    /// Side of a patch in pixels, `p`.
    pub patch: usize,
}

operands!(PixelUnshuffle { X });
constants!(PixelUnshuffle { PATCH });

impl Define for PixelUnshuffle {
    fn name(&self) -> &'static str {
        "pixel_unshuffle"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        let p = self.patch;
        match *inputs {
            [Some(x)] if x.h.min(x.w) >= p => Ok(Shape::new(x.n, x.h / p, x.w / p, x.c * p * p)),
            _ => Err(format!("x [n, h, w, c] with h, w >= {p}")),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.patch as u32]
    }

    fn feeds_gemm(&self, _: usize, feeds_gemm: bool) -> bool {
        feeds_gemm
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let (x, p) = (inputs[Self::X].expect("x"), self.patch);
        for (i, y) in out.iter_mut().enumerate() {
            let (ch, col, row) = (i % shape.c, i / shape.c % shape.w, i / shape.c / shape.w % shape.h);
            let (image, row, col) = (i / shape.c / shape.tokens(), row * p + ch % (p * p) / p, col * p + ch % p);
            *y = x.f32()[((image * x.shape.h + row) * x.shape.w + col) * x.shape.c + ch / (p * p)];
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |patch, x| Case::new(PixelUnshuffle { patch }, vec![x]);
    vec![
        case(2, slot(2, 6, 12, 5)),
        case(1, slot(2, 6, 12, 5)),
        case(3, slot(2, 6, 12, 5)),
        case(2, slot(2, 7, 5, 320)), // Stage B, between levels with odd sides
    ]
}
