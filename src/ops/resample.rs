use super::{Case, Define, Operands, Shapes, slot};
use crate::shape::Shape;

/// Bilinear interpolation with aligned corners: along each axis, output pixel `o` of `m` samples the
/// `n` input pixels at coordinate `o·(n − 1)/(m − 1)`.
///
/// Operands: `x [n, h, w, c]`. Result `[n, height, width, c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resample {
    /// Rows of the result.
    pub height: usize,
    /// Columns of the result.
    pub width: usize,
}

operands!(Resample { X });

impl Resample {
    /// For output pixel `o` of `m` and `n` input pixels: the two neighbouring input pixels and the weight of
    /// the second. Computed in f32, as PyTorch does.
    pub fn source(o: usize, m: usize, n: usize) -> (usize, usize, f32) {
        let step = if m > 1 { (n - 1) as f32 / (m - 1) as f32 } else { 0.0 };
        let at = step * o as f32;
        let first = (at as usize).min(n - 1);
        (first, (first + 1).min(n - 1), at - first as f32)
    }
}

impl Define for Resample {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x)] if x.elements() > 0 && self.height * self.width > 0 => Ok(x.with_hw(self.height, self.width)),
            _ => Err("x [n, h, w, c], with neither x nor the result empty".into()),
        }
    }

    fn flops(&self, _: Shapes<'_>, out: Shape) -> u64 {
        8 * out.elements() as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x");
        let Shape { h, w, c, .. } = x.shape;
        for (i, y) in out.iter_mut().enumerate() {
            let (ch, col, row) = (i % c, i / c % shape.w, i / c / shape.w % shape.h);
            let image = i / c / shape.w / shape.h;
            let (y0, y1, fy) = Self::source(row, shape.h, h);
            let (x0, x1, fx) = Self::source(col, shape.w, w);
            let at = |r: usize, q: usize| x.f32()[((image * h + r) * w + q) * c + ch];
            let top = at(y0, x0) * (1.0 - fx) + at(y0, x1) * fx;
            let bottom = at(y1, x0) * (1.0 - fx) + at(y1, x1) * fx;
            *y = top * (1.0 - fy) + bottom * fy;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |x, height, width| Case::new(Resample { height, width }, vec![x]);
    vec![
        case(slot(1, 6, 6, 16), 32, 32),
        case(slot(2, 4, 5, 7), 5, 3),
        case(slot(1, 1, 2, 3), 4, 1),
        case(slot(2, 3, 3, 2), 3, 3),
    ]
}
