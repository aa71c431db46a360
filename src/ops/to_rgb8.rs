use super::{Case, Define, Element, Operands, Shapes, slot, values};
use crate::shape::Shape;

/// Converts pictures to bytes: `round(255·clamp(x, 0, 1))`, with ties rounded to even, cropped to
/// the requested size. NaN becomes 0.
///
/// Operands: `x [n, h, w, 3]`. Result `[n, height, width, 1]` (u32), one element per
/// pixel: red in the lowest byte, then green and blue; the highest byte is 255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ToRgb8 {
    /// Rows to keep, counted from the top.
    pub height: usize,
    /// Columns to keep, counted from the left.
    pub width: usize,
}

operands!(ToRgb8 { X });

impl Define for ToRgb8 {
    fn name(&self) -> &'static str {
        "to_rgb8"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x)] if x.c == 3 && x.h >= self.height && x.w >= self.width => {
                Ok(Shape::new(x.n, self.height, self.width, 1))
            }
            _ => Err(format!("x [n, h, w, 3] of at least {}×{}", self.height, self.width)),
        }
    }

    fn element(&self) -> Element {
        Element::U32
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x");
        for (i, y) in out.iter_mut().enumerate() {
            let (col, row, image) = (i % shape.w, i / shape.w % shape.h, i / shape.w / shape.h);
            let at = ((image * x.shape.h + row) * x.shape.w + col) * 3;
            let byte = |v: f32| (v.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
            let [r, g, b] = [0, 1, 2].map(|ch| byte(x.f32()[at + ch]));
            *y = f32::from_bits(u32::from_le_bytes([r, g, b, 255]));
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |x, height, width| Case::new(ToRgb8 { height, width }, vec![x]);
    let halves = (0..255u8).map(|v| (f32::from(v) + 0.5) / 255.0);
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, -0.5, 2.0];
    let edge: Vec<f32> = halves.chain(odd).collect();
    vec![case(slot(2, 8, 8, 3), 8, 8), case(slot(2, 7, 9, 3), 5, 8), case(values(1, 9, 10, 3, &edge), 9, 10)]
}
