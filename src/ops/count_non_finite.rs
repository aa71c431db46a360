use super::{Case, Define, Element, Operands, Shapes, slot, values};
use crate::shape::Shape;

/// Number of elements that are NaN or infinite, as u32.
///
/// Operands: `x [n, h, w, c]`. Result `[1, 1, 1, 1]`. Each stage ends with this op, so
/// that an overflow is reported as an error that names the stage instead of producing a black picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CountNonFinite;

operands!(CountNonFinite { X });

impl Define for CountNonFinite {
    fn name(&self) -> &'static str {
        "count_non_finite"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(_)] => Ok(Shape::vector(1)),
            _ => Err("x [n, h, w, c]".into()),
        }
    }

    fn element(&self) -> Element {
        Element::U32
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], _: Shape) {
        let count = inputs[Self::X].expect("x").f32().iter().filter(|x| !x.is_finite()).count();
        out[0] = f32::from_bits(count as u32);
    }
}

pub(super) fn cases() -> Vec<Case> {
    // The second case ends with a value that counts, in a block of threads that is not full.
    let mixed =
        [0.0, f32::NAN, f32::MAX, -f32::NAN, f32::INFINITY, 1e-45, -1.0, f32::NEG_INFINITY, -0.0, f32::MIN, 1.0];
    [slot(2, 3, 5, 7), values(2, 20, 29, 7, &mixed)].map(|x| Case::new(CountNonFinite, vec![x])).to_vec()
}
