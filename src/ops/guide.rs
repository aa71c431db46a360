use super::{Case, Define, Operands, Shapes, index, slot};
use crate::shape::Shape;

/// Classifier-free guidance: `ε_cond + (ε_cond − ε_uncond)·(g − 1)`.
///
/// Operands:
/// 0. `eps [2n, h, w, c]`: the network's output, for the conditional images first
/// 1. `guidance [1, 1, steps, 3]`: `g` of every step, and two numbers that only [`GuideProjected`](super::GuideProjected)
///    uses
/// 2. `counter [1, 1, 1, 1]` (u32): the current step
///
/// Result: `[n, h, w, c]`. Source: `torch.lerp` in diffusers' pipelines; this is the form that it evaluates for weights
/// of at least 0.5.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guide;

operands!(Guide { EPS, GUIDANCE, COUNTER });

impl Define for Guide {
    fn name(&self) -> &'static str {
        "guide"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        shape(inputs)
    }

    fn reads(&self, i: usize, shape: Shape, _: Shape) -> usize {
        if i == Self::GUIDANCE { shape.c } else { shape.elements() }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let [eps, guidance] = [Self::EPS, Self::GUIDANCE].map(|i| inputs[i].expect("is there").f32());
        let g = guidance[3 * inputs[Self::COUNTER].expect("counter").u32()[0] as usize];
        let (conditional, unconditional) = eps.split_at(shape.elements());
        for ((y, e), u) in out.iter_mut().zip(conditional).zip(unconditional) {
            *y = e + (e - u) * (g - 1.0);
        }
    }
}

/// Half the images of `eps`, if the operands of a guidance op fit together.
pub(super) fn shape(inputs: Shapes<'_>) -> Result<Shape, String> {
    match *inputs {
        [Some(eps), Some(guidance), Some(counter)]
            if eps.n.is_multiple_of(2)
                && guidance == Shape::matrix(guidance.w, 3)
                && counter == Shape::vector(1) =>
        {
            Ok(Shape { n: eps.n / 2, ..eps })
        }
        _ => Err("eps [2n, h, w, c], guidance [1, 1, steps, 3] and a counter".into()),
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n: usize, steps, step| Case::new(Guide, vec![slot(2 * n, 3, 5, 4), slot(1, 1, steps, 3), index(&[step])]);
    vec![case(2, 3, 1), case(1, 1, 0), case(3, 2, 1)]
}
