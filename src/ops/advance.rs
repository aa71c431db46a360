use super::{Case, Define, Element, Operands, Shapes, index};
use crate::shape::Shape;

/// `counter += 1`: advances the sampler to its next step without the host's help.
///
/// Operands: `counter [1, 1, 1, 1]` (u32), updated in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Advance;

operands!(Advance { COUNTER });

impl Define for Advance {
    fn name(&self) -> &'static str {
        "advance"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x)] if x == Shape::vector(1) => Ok(x),
            _ => Err("counter [1, 1, 1, 1]".into()),
        }
    }

    fn element(&self) -> Element {
        Element::U32
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::COUNTER)
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], _: Shape) {
        out[0] = f32::from_bits(inputs[Self::COUNTER].expect("counter").u32()[0].wrapping_add(1));
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![Case::new(Advance, vec![index(&[41])])]
}
