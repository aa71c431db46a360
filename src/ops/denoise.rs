use super::{Case, Define, Operands, Shapes, index, slot};
use crate::shape::Shape;

/// One sampler step with classifier-free guidance, in place on the latents:
///
/// `ε = ε_cond − (ε_cond − ε_uncond)·(1 − g)`, or without guidance the network's output
/// itself; then `x ← c₀·(x − c₁·ε) + σ·z`.
///
/// Operands:
/// 0. `x [n, h, w, c]`, the latents
/// 1. `eps [n, h, w, c]`, or with guidance `[2n, h, w, c]`: conditional images first
/// 2. `noise`: standard normal `z`, either `[steps·n, h, w, c]` for all steps or `[n, h, w, c]` for this step
/// 3. `coefficients [1, 1, steps, 4]`: `c₀, c₁, σ, g` of every step
/// 4. `counter [1, 1, 1, 1]` (u32): the current step
///
/// Source: `DDPMWuerstchenScheduler.step` and `torch.lerp`. The formula for `ε` is the one that
/// `torch.lerp` evaluates for weights of at least 0.5.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Denoise {
    /// Whether guidance is used, so that `eps` also holds the unconditional images.
    pub guided: bool,
}

operands!(Denoise { X, EPS, NOISE, COEFFICIENTS, COUNTER });

impl Define for Denoise {
    fn name(&self) -> &'static str {
        "denoise"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(eps), Some(noise), Some(coefficients), Some(counter)]
                if eps == (Shape { n: x.n * if self.guided { 2 } else { 1 }, ..x })
                    && [x.n * coefficients.w, x.n].map(|n| Shape { n, ..x }).contains(&noise)
                    && coefficients == Shape::matrix(coefficients.w, 4)
                    && counter == Shape::vector(1) =>
            {
                Ok(x)
            }
            _ => Err(format!(
                "x [n, h, w, c], eps [{}n, h, w, c], noise [steps·n or n, h, w, c], coefficients [1, 1, steps, 4], counter",
                if self.guided { "2" } else { "" }
            )),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![u32::from(self.guided)]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reads(&self, i: usize, shape: Shape, out: Shape) -> usize {
        // Only the current step's noise and coefficients are read.
        match i {
            Self::NOISE => out.elements(),
            Self::COEFFICIENTS => shape.c,
            _ => shape.elements(),
        }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let [x, eps, noise, coefficients] =
            [Self::X, Self::EPS, Self::NOISE, Self::COEFFICIENTS].map(|i| inputs[i].expect("every operand").f32());
        let step = inputs[Self::COUNTER].expect("counter").u32()[0] as usize;
        let [c0, c1, sigma, g] = [0, 1, 2, 3].map(|i| coefficients[step * 4 + i]);
        let noise = if noise.len() == shape.elements() { noise } else { &noise[step * shape.elements()..] };
        for i in 0..shape.elements() {
            let mut e = eps[i];
            if self.guided {
                e -= (e - eps[i + shape.elements()]) * (1.0 - g);
            }
            out[i] = c0 * (x[i] - c1 * e) + sigma * noise[i];
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |guided, n: usize, steps, step| {
        let eps = slot(if guided { 2 * n } else { n }, 3, 5, 4);
        let noise = slot(steps * n, 3, 5, 4);
        Case::new(Denoise { guided }, vec![slot(n, 3, 5, 4), eps, noise, slot(1, 1, 3, 4), index(&[step])])
    };
    vec![case(true, 2, 3, 1), case(false, 1, 3, 2), case(true, 1, 3, 0), case(true, 2, 1, 2)]
}
