use super::{Case, Define, Operands, Shapes, slot, weight};
use crate::shape::Shape;

/// The depthwise half of Stage A's residual block: `y = x + gammas[2]·(depthwise(t) + bias)`,
/// where `t` is padded by replicating its edges.
///
/// Operands: `x [n, h, w, c]`, `t [n, h, w, c]`, `weight [c, 1, k, k]` with odd `k`,
/// `bias [c]`, `gammas [6]`. In place on `x` where the plan allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DepthwiseResidual;

operands!(DepthwiseResidual { X, T, WEIGHT, BIAS, GAMMAS });

impl Define for DepthwiseResidual {
    fn name(&self) -> &'static str {
        "depthwise_residual"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(t), Some(w), Some(bias), Some(gammas)]
                if t == x
                    && w == Shape::new(x.c, 1, w.w, w.w)
                    && w.w % 2 == 1
                    && bias == Shape::vector(x.c)
                    && gammas == Shape::vector(6) =>
            {
                Ok(x)
            }
            _ => Err("x and t [n, h, w, c], weight [c, 1, k, k] with odd k, bias [c], gammas [6]".into()),
        }
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        (out.elements() * inputs[Self::WEIGHT].map_or(0, |w| 2 * w.w * w.c + 2)) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let [x, t] = [Self::X, Self::T].map(|i| inputs[i].expect("x and t").f32());
        let k = inputs[Self::WEIGHT].expect("weight").shape.w;
        let [weight, bias, gammas] =
            [Self::WEIGHT, Self::BIAS, Self::GAMMAS].map(|i| inputs[i].expect("weights").values());
        let Shape { h, w, c, .. } = shape;
        for (i, y) in out.iter_mut().enumerate() {
            let (ch, col, line, image) = (i % c, i / c % w, i / c / w % h, i / c / w / h);
            let mut sum = f64::from(bias[ch]);
            for (ky, kx) in (0..k).flat_map(|ky| (0..k).map(move |kx| (ky, kx))) {
                let py = (line + ky).saturating_sub(k / 2).min(h - 1);
                let px = (col + kx).saturating_sub(k / 2).min(w - 1);
                sum += f64::from(t[((image * h + py) * w + px) * c + ch]) * f64::from(weight[(ch * k + ky) * k + kx]);
            }
            *y = (f64::from(x[i]) + f64::from(gammas[2]) * sum) as f32;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n, h, w, c: usize| {
        let (weight_dims, x) = ([c, 1, 3, 3], slot(n, h, w, c));
        Case::new(DepthwiseResidual, vec![x.clone(), x, weight(&weight_dims), weight(&[c]), weight(&[6])])
    };
    vec![case(1, 9, 8, 192), case(2, 3, 5, 7), case(1, 1, 1, 20), case(2, 4, 7, 132)]
}
