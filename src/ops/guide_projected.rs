use super::{Case, Define, Operands, Shapes, guide, index, slot, values};
use crate::shape::Shape;

/// Guidance that keeps the prediction's direction or contrast, image by image.
///
/// With `d = ε_cond − ε_uncond`, the part of `d` along `ε_cond` is scaled by `η` (adaptive projected guidance, where less
/// of it means less saturated pictures): `ε = ε_cond + (g − 1)·(d − (1 − η)·⟨d, ε_cond⟩ / ⟨ε_cond, ε_cond⟩·ε_cond)`. Then the
/// standard deviation is moved by `φ` of the way back to that of `ε_cond`: `ε·(φ·std(ε_cond) / std(ε) + 1 − φ)`.
///
/// Operands:
/// 0. `eps [2n, h, w, c]`: the network's output, for the conditional images first
/// 1. `guidance [1, 1, steps, 3]`: `g, φ, η` of every step
/// 2. `counter [1, 1, 1, 1]` (u32): the current step
///
/// Result: `[n, h, w, c]`. A prediction that is the same everywhere is not rescaled, and one of zeros has no part along it.
///
/// Sources: Sadat et al. 2024, algorithm 1, without momentum and threshold; Lin et al. 2024, equation 15, in the original
/// repository `cfg_rho` (over one image here, over a batch there).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuideProjected;

operands!(GuideProjected { EPS, GUIDANCE, COUNTER });

impl Define for GuideProjected {
    fn name(&self) -> &'static str {
        "guide_projected"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        guide::shape(inputs)
    }

    fn reads(&self, i: usize, shape: Shape, _: Shape) -> usize {
        if i == Self::GUIDANCE { shape.c } else { shape.elements() }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let [eps, guidance] = [Self::EPS, Self::GUIDANCE].map(|i| inputs[i].expect("is there").f32());
        let step = inputs[Self::COUNTER].expect("counter").u32()[0] as usize;
        let [g, rescale, parallel] = [0, 1, 2].map(|i| f64::from(guidance[3 * step + i]));
        let image = shape.elements() / shape.n.max(1);
        let (conditional, unconditional) = eps.split_at(shape.elements());
        for (k, out) in out.chunks_mut(image.max(1)).enumerate() {
            let of = |eps: &[f32], i| f64::from(eps[k * image + i]);
            let (cond, differs) = (|i| of(conditional, i), |i| of(conditional, i) - of(unconditional, i));
            let sum = |f: &dyn Fn(usize) -> f64| (0..image).map(f).sum::<f64>();
            let (along, length) = (sum(&|i| differs(i) * cond(i)), sum(&|i| cond(i) * cond(i)));
            let along = if length > 0.0 { along / length } else { 0.0 };
            let (p, q) = (1.0 - (g - 1.0) * (1.0 - parallel) * along, g - 1.0);
            let guided = |i| p * cond(i) + q * differs(i);
            let squares = |f: &dyn Fn(usize) -> f64| {
                let mean = sum(f) / image as f64;
                sum(&|i| (f(i) - mean) * (f(i) - mean))
            };
            let (before, after) = (squares(&cond), squares(&guided));
            let ratio = if after > 0.0 { (before / after).sqrt() } else { 1.0 };
            for (i, y) in out.iter_mut().enumerate() {
                *y = (guided(i) * (rescale * ratio + 1.0 - rescale)) as f32;
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let factors = |steps| values(1, 1, steps, 3, &[4.0, 0.7, 0.25, 1.5, 0.0, 0.0, 3.0, 1.0, 1.0]);
    let case = |n: usize, h, w, steps, step| {
        Case::new(GuideProjected, vec![slot(2 * n, h, w, 4), factors(steps), index(&[step])])
    };
    let constant = Case::new(GuideProjected, vec![values(2, 3, 3, 1, &[0.5]), factors(1), index(&[0])]);
    let zero = Case::new(GuideProjected, vec![values(2, 3, 3, 1, &[0.0]), factors(1), index(&[0])]);
    vec![case(1, 24, 24, 3, 0), case(2, 5, 7, 3, 1), case(3, 3, 1, 3, 2), case(1, 40, 25, 1, 0), constant, zero]
}
