use super::{Case, Define, Operands, Shapes, slot, weight};
use crate::shape::Shape;

/// The statistics of global response normalisation (GRN), as one scale per channel.
///
/// `G[c] = sqrt(Σ x[h, w, c]²)` over one image, `N[c] = G[c] / (mean(G) + eps)`, and the
/// result is `s[c] = 1 + gamma[c]·N[c]`, so that GRN itself, `gamma·(x·N) + beta + x`, is
/// `x·s + beta`. The linear layer that follows applies this in its prologue, as it loads `x`,
/// so that the largest tensor of a block is not written and read once more.
///
/// Operands: `x [n, h, w, c]`, `gamma [c]`. Result `[n, 1, 1, c]`.
///
/// Source: `GlobalResponseNorm` of ConvNeXt V2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrnScale {
    /// Added to the mean of `G`: `1e-6`.
    pub eps: f32,
}

operands!(GrnScale { X, GAMMA });

impl Define for GrnScale {
    fn name(&self) -> &'static str {
        "grn_scale"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(gamma)] if gamma == Shape::vector(x.c) => Ok(Shape::new(x.n, 1, 1, x.c)),
            _ => Err("x [n, h, w, c] and gamma [c]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.eps.to_bits()]
    }

    fn feeds_gemm(&self, i: usize, _: bool) -> bool {
        // The linear layer that follows reads the same `x` as a GEMM input, so these are the statistics of the
        // values that it multiplies, even if they are stored as bf16.
        i == Self::X
    }

    fn flops(&self, inputs: Shapes<'_>, _: Shape) -> u64 {
        2 * inputs[Self::X].map_or(0, |x| x.elements()) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let (x, gamma) = (inputs[Self::X].expect("x"), inputs[Self::GAMMA].expect("gamma").values());
        let c = shape.c;
        for (xs, ys) in x.f32().chunks(x.shape.tokens() * c).zip(out.chunks_mut(c)) {
            let norm = |ch: usize| xs[ch..].iter().step_by(c).map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let norms: Vec<f64> = (0..c).map(norm).collect();
            let mean = norms.iter().sum::<f64>() / c as f64;
            for ch in 0..c {
                ys[ch] = (1.0 + f64::from(gamma[ch]) * norms[ch] / (mean + f64::from(self.eps))) as f32;
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n, h, w, c: usize| Case::new(GrnScale { eps: 1e-6 }, vec![slot(n, h, w, c), weight(&[c])]);
    vec![
        case(2, 12, 12, 512),
        case(2, 3, 5, 7),
        case(1, 1, 1, 64),
        case(1, 67, 31, 40),
        case(1, 9, 31, 39),
        case(2, 24, 24, 132),
    ]
}
