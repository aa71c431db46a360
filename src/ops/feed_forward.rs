use super::{Case, Define, Function, Operands, Shapes, mean_rstd, slot, weight};
use crate::shape::Shape;

/// The feed-forward half of Stage A's residual block, in place on `x`:
/// `y = x + g₅·(W₂·gelu(W₀·(LN(x)·(1 + g₃) + g₄) + b₀) + b₂)` with `g = gammas`.
///
/// Operands: `x [n, h, w, c]`, `gammas [6]`, `w0 [4c, c]`, `b0 [4c]`, `w2 [c, 4c]`, `b2 [c]`.
///
/// It is one op so that the hidden tensor `[n, h, w, 4c]` is never stored: it would be the largest
/// tensor of the whole program (805 MB in f32 for 1024×1024 pixels). A kernel keeps at most a tile of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeedForward {
    /// Added to the variance: `1e-6`.
    pub eps: f32,
}

operands!(FeedForward { X, GAMMAS, W0, B0, W2, B2 });

impl Define for FeedForward {
    fn name(&self) -> &'static str {
        "feed_forward"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(gammas), Some(w0), Some(b0), Some(w2), Some(b2)]
                if gammas == Shape::vector(6)
                    && w0.c == x.c
                    && w2 == Shape::matrix(x.c, w0.w)
                    && b0 == Shape::vector(w0.w)
                    && b2 == Shape::vector(x.c) =>
            {
                Ok(x)
            }
            _ => Err("x [n, h, w, c], gammas [6], w0 [m, c], b0 [m], w2 [c, m], b2 [c]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.eps.to_bits()]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn feeds_gemm(&self, i: usize, _: bool) -> bool {
        i == Self::W0 || i == Self::W2
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        4 * (out.elements() * inputs[Self::W0].map_or(0, |w0| w0.w)) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x").f32();
        let [gammas, w0, b0, w2, b2] =
            [Self::GAMMAS, Self::W0, Self::B0, Self::W2, Self::B2].map(|i| inputs[i].expect("weights").values());
        let g = |i: usize| f64::from(gammas[i]);
        let (c, m) = (shape.c, b0.len());
        let dot = |w: &[f32], v: &[f64]| w.iter().zip(v).map(|(&w, v)| f64::from(w) * v).sum::<f64>();
        for (xs, ys) in x.chunks(c).zip(out.chunks_mut(c)) {
            let (mean, rstd) = mean_rstd(xs.iter().copied(), c, self.eps);
            let t: Vec<f64> = xs.iter().map(|&x| (f64::from(x) - mean) * rstd * (1.0 + g(3)) + g(4)).collect();
            let hidden = |j: usize| (dot(&w0[j * c..][..c], &t) + f64::from(b0[j])) as f32;
            let hidden: Vec<f64> = (0..m).map(|j| f64::from(Function::GeluErf.apply(hidden(j)))).collect();
            for (o, y) in ys.iter_mut().enumerate() {
                *y = (f64::from(xs[o]) + g(5) * (dot(&w2[o * m..][..m], &hidden) + f64::from(b2[o]))) as f32;
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n, h, w, c: usize| {
        let weights = [weight(&[6]), weight(&[4 * c, c]), weight(&[4 * c]), weight(&[c, 4 * c]), weight(&[c])];
        let inputs = [slot(n, h, w, c)].into_iter().chain(weights).collect();
        Case::new(FeedForward { eps: 1e-6 }, inputs).bf16(3e-2)
    };
    // The fourth has more channels than a shader keeps in workgroup memory; the last two have those of Stage A's levels.
    let small = [case(1, 16, 20, 48), case(2, 3, 5, 7), case(1, 1, 1, 16), case(1, 1, 3, 400)];
    small.into_iter().chain([case(1, 7, 19, 384), case(2, 7, 10, 192)]).collect()
}
