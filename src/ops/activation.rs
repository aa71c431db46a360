use super::{Case, Define, Function, Operands, Shapes, slot, values};
use crate::shape::Shape;

/// `y = f(x)`, element by element, in place where the plan allows.
///
/// Operands: `x [n, h, w, c]`. Used only where the function cannot be fused into the
/// epilogue of the op before it, as for the SiLU of the text context, which all blocks share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activation {
    /// The function.
    pub function: Function,
}

operands!(Activation { X });

impl Define for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x)] => Ok(x),
            _ => Err("x [n, h, w, c]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.function as u32]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], _: Shape) {
        for (y, &x) in out.iter_mut().zip(inputs[Self::X].expect("x").f32()) {
            *y = self.function.apply(x);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    // Values for which exp overflows or underflows and erf saturates.
    let large = [-1e4, -200.0, -90.0, -20.0, -6.0, -4.0, -3.9, 0.0, 3.9, 4.0, 6.0, 20.0, 90.0, 200.0, 1e4];
    [Function::Silu, Function::GeluErf, Function::QuickGelu, Function::Identity]
        .into_iter()
        .flat_map(|function| {
            [slot(2, 3, 5, 7), values(1, 1, 3, 5, &large)].map(|x| Case::new(Activation { function }, vec![x]))
        })
        .collect()
}
