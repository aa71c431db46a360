use super::{Case, Define, Operands, Shapes, slot};
use crate::shape::Shape;

/// Mean of every channel over an image: `y[c] = Σ x[h, w, c] / (h·w)`.
///
/// Operands: `x [n, h, w, c]`. Result `[n, 1, 1, c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean;

operands!(Mean { X });

impl Define for Mean {
    fn name(&self) -> &'static str {
        "mean"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x)] if x.tokens() > 0 => Ok(x.with_hw(1, 1)),
            _ => Err("x [n, h, w, c] with pixels".into()),
        }
    }

    fn flops(&self, inputs: Shapes<'_>, _: Shape) -> u64 {
        inputs[Self::X].map_or(0, |x| x.elements()) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x");
        let (c, tokens) = (shape.c, x.shape.tokens());
        for (i, y) in out.iter_mut().enumerate() {
            let image = &x.f32()[i / c * tokens * c..][..tokens * c];
            let sum: f64 = image[i % c..].iter().step_by(c).map(|&v| f64::from(v)).sum();
            *y = (sum / tokens as f64) as f32;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n, h, w, c| Case::new(Mean, vec![slot(n, h, w, c)]);
    vec![case(1, 24, 24, 1536), case(2, 3, 5, 7), case(1, 1, 1, 64), case(1, 67, 31, 40)]
}
