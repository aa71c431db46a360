use super::{Case, Define, Operands, Shapes, index, slot};
use crate::shape::Shape;

/// A linear combination whose factors depend on the sampling step: `a·x + b·ε + h·m + σ·z`.
///
/// In place on the latents it is a sampler's step; as a new value, the estimate of the clean latents; in place on
/// that estimate of the step before, what replaces it. With `h` and `σ` 0 it adds what a ControlNet gives, as strongly as the step says.
///
/// Operands:
/// 0. `x [n, h, w, c]`, the latents
/// 1. `eps [n, h, w, c]`, the network's prediction after guidance
/// 2. `history [n, h, w, c]`, the estimate `m` of the step before; may be absent
/// 3. `noise`, may be absent: standard normal `z`, either `[steps·n, h, w, c]` for all steps or `[n, h, w, c]` for this
///    step
/// 4. `factors [1, 1, steps, 4]`: `a, b, h, σ` of every step
/// 5. `counter [1, 1, 1, 1]` (u32): the current step
///
/// A factor of an operand that is absent is not used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Denoise;

operands!(Denoise { X, EPS, HISTORY, NOISE, FACTORS, COUNTER });

impl Define for Denoise {
    fn name(&self) -> &'static str {
        "denoise"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(eps), history, noise, Some(factors), Some(counter)]
                if eps == x
                    && history.is_none_or(|history| history == x)
                    && noise.is_none_or(|noise| [x.n * factors.w, x.n].map(|n| Shape { n, ..x }).contains(&noise))
                    && factors == Shape::matrix(factors.w, 4)
                    && counter == Shape::vector(1) =>
            {
                Ok(x)
            }
            _ => Err("x [n, h, w, c], eps and perhaps a history of that shape, perhaps noise [steps·n or n, h, w, c], \
                      factors [1, 1, steps, 4], counter"
                .into()),
        }
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reads(&self, i: usize, shape: Shape, out: Shape) -> usize {
        // Only the current step's noise and factors are read.
        match i {
            Self::NOISE => out.elements(),
            Self::FACTORS => shape.c,
            _ => shape.elements(),
        }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let all = |i: usize| inputs[i].map(|operand| operand.f32());
        let [x, eps, factors] = [Self::X, Self::EPS, Self::FACTORS].map(|i| all(i).expect("is there"));
        let step = inputs[Self::COUNTER].expect("counter").u32()[0] as usize;
        let [a, b, h, sigma] = [0, 1, 2, 3].map(|i| factors[step * 4 + i]);
        let of_step = |noise: &'_ [f32]| if noise.len() == shape.elements() { 0 } else { step * shape.elements() };
        for i in 0..shape.elements() {
            let mut y = a * x[i] + b * eps[i];
            if let Some(history) = all(Self::HISTORY) {
                y += h * history[i];
            }
            if let Some(noise) = all(Self::NOISE) {
                y += sigma * noise[of_step(noise) + i];
            }
            out[i] = y;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n: usize, history: bool, noise: Option<usize>, step| {
        let latents = |n| slot(n, 3, 5, 4);
        let history = if history { latents(n) } else { None };
        let inputs = vec![latents(n), latents(n), history, noise.and_then(latents), slot(1, 1, 3, 4), index(&[step])];
        Case::new(Denoise, inputs)
    };
    vec![
        case(2, false, Some(6), 1),
        case(1, false, Some(1), 2),
        case(2, true, None, 0),
        case(1, true, Some(3), 2),
        case(3, false, None, 1),
    ]
}
