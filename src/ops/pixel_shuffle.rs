use super::{Case, Define, Operands, Shapes, slot};
use crate::shape::Shape;

/// Rearranges channels into pixels: `y[row·p + i, col·p + j, ch] = x[row, col, ch·p² + i·p + j]`.
///
/// Operands: `x [n, h, w, c·p²]`. Result `[n, h·p, w·p, c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelShuffle {
    /// Side of a patch in pixels, `p`.
    pub patch: usize,
}

operands!(PixelShuffle { X });

impl Define for PixelShuffle {
    fn name(&self) -> &'static str {
        "pixel_shuffle"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        let p = self.patch;
        match *inputs {
            [Some(x)] if x.c % (p * p) == 0 => Ok(Shape::new(x.n, x.h * p, x.w * p, x.c / (p * p))),
            _ => Err(format!("x [n, h, w, c·{}]", p * p)),
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
            let (ch, col, line) = (i % shape.c, i / shape.c % shape.w, i / shape.c / shape.w); // line counts over images
            let from = (line / p * x.shape.w + col / p) * x.shape.c + ch * p * p + line % p * p + col % p;
            *y = x.f32()[from];
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    [2, 1, 3].map(|patch| Case::new(PixelShuffle { patch }, vec![slot(2, 3, 5, 36)])).to_vec()
}
