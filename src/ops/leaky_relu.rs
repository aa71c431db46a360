use super::{Case, Define, Operands, Shapes, slot, values};
use crate::shape::Shape;

/// `y = x` where `x` is positive, else `slope·x`, in place where the plan allows.
///
/// Operands: `x [n, h, w, c]`. ControlNets have it, once per request, so it is fused into no other op.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeakyRelu {
    /// What negative values are multiplied by.
    pub slope: f32,
}

operands!(LeakyRelu { X });

impl Define for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x)] => Ok(x),
            _ => Err("x [n, h, w, c]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.slope.to_bits()]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], _: Shape) {
        for (y, &x) in out.iter_mut().zip(inputs[Self::X].expect("x").f32()) {
            *y = if x > 0.0 { x } else { self.slope * x };
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let edge = values(1, 2, 3, 2, &[-1e30, -2.0, -1e-30, -0.0, 0.0, 1e-30, 2.0, 1e30]);
    let case = |x, slope| Case::new(LeakyRelu { slope }, vec![x]);
    vec![case(slot(2, 3, 5, 7), 0.2), case(edge, 0.2), case(slot(1, 1, 1, 1), 0.01)]
}
