use super::{Case, Define, Operands, Shapes, slot, values};
use crate::shape::Shape;

/// `y = factor·x`, in place where the plan allows.
///
/// Operands: `x [n, h, w, c]`. Converts Stage B's latents to the scale that Stage A expects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// The factor.
    pub factor: f32,
}

operands!(Scale { X });

impl Define for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x)] => Ok(x),
            _ => Err("x [n, h, w, c]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.factor.to_bits()]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], _: Shape) {
        for (y, x) in out.iter_mut().zip(inputs[Self::X].expect("x").f32()) {
            *y = self.factor * x;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    // More workgroups of 64 elements than one dimension of a WebGPU grid may have.
    let wide = values(1, 1, 64 * 65_535 + 65, 1, &[0.5, -1.0, 3.0, 0.0, 7.0]);
    [slot(2, 3, 5, 7), wide].map(|x| Case::new(Scale { factor: 0.3764 }, vec![x])).to_vec()
}
