use super::{Case, Define, Operands, Shapes, mean_rstd, slot, weight};
use crate::shape::Shape;

/// Depthwise convolution with zero padding, then layer norm over the channels
/// without an affine map. Every Stage B and C block begins with this pair. It is fused because
/// both ops are limited by memory bandwidth.
///
/// Operands: `x [n, h, w, c]`, `weight [c, 1, k, k]` with odd `k`, `bias [c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DepthwiseNorm {
    /// Added to the variance: `1e-6`.
    pub eps: f32,
}

operands!(DepthwiseNorm { X, WEIGHT, BIAS });

impl Define for DepthwiseNorm {
    fn name(&self) -> &'static str {
        "depthwise_norm"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(w), Some(bias)]
                if w == Shape::new(x.c, 1, w.w, w.w) && w.w % 2 == 1 && bias == Shape::vector(x.c) =>
            {
                Ok(x)
            }
            _ => Err("x [n, h, w, c], weight [c, 1, k, k] with odd k, bias [c]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.eps.to_bits()]
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        (out.elements() * inputs[Self::WEIGHT].map_or(0, |w| 2 * w.w * w.c + 5)) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x").f32();
        let k = inputs[Self::WEIGHT].expect("weight").shape.w;
        let [weight, bias] = [Self::WEIGHT, Self::BIAS].map(|i| inputs[i].expect("weight and bias").values());
        let Shape { h, w, c, .. } = shape;
        for (row, ys) in out.chunks_mut(c).enumerate() {
            let (col, line, image) = (row % w, row / w % h, row / w / h);
            for (ch, y) in ys.iter_mut().enumerate() {
                let mut sum = f64::from(bias[ch]);
                for (ky, kx) in (0..k).flat_map(|ky| (0..k).map(move |kx| (ky, kx))) {
                    let (py, px) = (line + ky, col + kx); // padded by k/2 on each side
                    if (k / 2..h + k / 2).contains(&py) && (k / 2..w + k / 2).contains(&px) {
                        let at = ((image * h + py - k / 2) * w + px - k / 2) * c + ch;
                        sum += f64::from(x[at]) * f64::from(weight[(ch * k + ky) * k + kx]);
                    }
                }
                *y = sum as f32;
            }
            let (mean, rstd) = mean_rstd(ys.iter().copied(), c, self.eps);
            ys.iter_mut().for_each(|y| *y = ((f64::from(*y) - mean) * rstd) as f32);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |n, h, w, c: usize, k: usize| {
        Case::new(DepthwiseNorm { eps: 1e-6 }, vec![slot(n, h, w, c), weight(&[c, 1, k, k]), weight(&[c])])
    };
    vec![
        case(2, 6, 6, 512, 3),
        case(1, 5, 3, 320, 3),
        case(2, 1, 1, 7, 3),
        case(1, 3, 2, 24, 5),
        case(1, 4, 4, 1, 3),
        case(2, 4, 5, 6, 9), // a kernel larger than the picture, and than the 7×7 that the CPU kernel supports
        case(1, 256, 257, 8, 3), // more pixels than one dimension of a WebGPU grid may have
        case(2, 4, 7, 2048, 3),
        case(1, 2, 10, 132, 3), // four more channels than a warp handles at once
        case(1, 3, 4, 260, 5),
        case(2, 7, 9, 1284, 3), // tiles that extend past the edges of the picture
    ]
}
