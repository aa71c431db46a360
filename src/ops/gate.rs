use super::{Case, Define, Operands, Shapes, slot, values};
use crate::shape::Shape;

/// Scales every channel of an image by a gate: `y = x · sigmoid(s)`.
///
/// Operands: `x [n, h, w, c]`, `s [n, 1, 1, c]`. In place on `x` where the plan
/// allows. This is the last op of squeeze-and-excitation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate;

operands!(Gate { X, S });

impl Define for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(s)] if s == x.with_hw(1, 1) => Ok(x),
            _ => Err("x [n, h, w, c] and s [n, 1, 1, c]".into()),
        }
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let [x, s] = [Self::X, Self::S].map(|i| inputs[i].expect("x and s").f32());
        let sigmoid = |v: f32| 1.0 / (1.0 + (-f64::from(v)).exp());
        let per_image = shape.tokens() * shape.c;
        for (i, y) in out.iter_mut().enumerate() {
            *y = (f64::from(x[i]) * sigmoid(s[i / per_image * shape.c + i % shape.c])) as f32;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n, h, w, c| Case::new(Gate, vec![slot(n, h, w, c), slot(n, 1, 1, c)]);
    // Values for which exp overflows or underflows.
    let large = Case::new(
        Gate,
        vec![slot(1, 2, 2, 8), values(1, 1, 1, 8, &[-1e4, -200.0, -90.0, -9.0, 9.0, 90.0, 200.0, 1e4])],
    );
    vec![case(1, 24, 24, 256), case(2, 3, 5, 7), case(1, 1, 1, 1), large]
}
