use super::{Case, Define, Operands, Shapes, slot};
use crate::shape::Shape;

/// `y = a + b`, in place on `a` where the plan allows.
///
/// Operands: `a [n, h, w, c]`, and `b [n, h, w, c]` or `[1, h, w, c]`, which is
/// broadcast to every image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Add;

operands!(Add { A, B });

impl Define for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(a), Some(b)] if b == a || b == (Shape { n: 1, ..a }) => Ok(a),
            _ => Err("a [n, h, w, c] and b [n or 1, h, w, c]".into()),
        }
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::A)
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], _: Shape) {
        let [a, b] = [Self::A, Self::B].map(|i| inputs[i].expect("a and b").f32());
        for (y, (a, b)) in out.iter_mut().zip(a.iter().zip(b.iter().cycle())) {
            *y = a + b;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(Add, vec![slot(1, 16, 16, 64), slot(1, 16, 16, 64)]),
        Case::new(Add, vec![slot(2, 3, 5, 7), slot(1, 3, 5, 7)]),
        Case::new(Add, vec![slot(2, 3, 5, 12), slot(1, 3, 5, 12)]),
        Case::new(Add, vec![slot(3, 1, 5, 4), slot(3, 1, 5, 4)]),
    ]
}
