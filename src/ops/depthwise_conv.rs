use super::{Case, Define, Operands, Shapes, slot, weight};
use crate::shape::Shape;

/// Depthwise convolution with zero padding: every channel has its own kernel.
///
/// Operands: `x [n, h, w, c]`, `weight [c, 1, k, k]` with odd `k`. The padding is `k/2`, so the
/// result is `[n, ⌈h / stride⌉, ⌈w / stride⌉, c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DepthwiseConv {
    /// Stride, in both directions.
    pub stride: usize,
}

operands!(DepthwiseConv { X, WEIGHT });

impl Define for DepthwiseConv {
    fn name(&self) -> &'static str {
        "depthwise_conv"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(w)] if w == Shape::new(x.c, 1, w.w, w.w) && w.w % 2 == 1 => {
                Ok(x.with_hw(x.h.div_ceil(self.stride), x.w.div_ceil(self.stride)))
            }
            _ => Err("x [n, h, w, c], weight [c, 1, k, k] with odd k".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.stride as u32]
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        2 * (out.elements() * inputs[Self::WEIGHT].map_or(0, |w| w.w * w.c)) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x");
        let Shape { h, w, c, .. } = x.shape;
        let k = inputs[Self::WEIGHT].expect("weight").shape.w;
        let weight = inputs[Self::WEIGHT].expect("weight").values();
        for (i, y) in out.iter_mut().enumerate() {
            let (ch, col) = (i % c, i / c % shape.w);
            let (line, image) = (i / c / shape.w % shape.h, i / c / shape.w / shape.h);
            let mut sum = 0.0;
            for (ky, kx) in (0..k).flat_map(|ky| (0..k).map(move |kx| (ky, kx))) {
                // Coordinates in the padded input; those in the padding contribute zero.
                let (py, px) = (line * self.stride + ky, col * self.stride + kx);
                if (k / 2..h + k / 2).contains(&py) && (k / 2..w + k / 2).contains(&px) {
                    let at = ((image * h + py - k / 2) * w + px - k / 2) * c + ch;
                    sum += f64::from(x.f32()[at]) * f64::from(weight[(ch * k + ky) * k + kx]);
                }
            }
            *y = sum as f32;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |stride, n, h, w, c: usize, k: usize| {
        Case::new(DepthwiseConv { stride }, vec![slot(n, h, w, c), weight(&[c, 1, k, k])])
    };
    vec![
        case(1, 1, 12, 12, 256, 3), // EfficientNet
        case(2, 1, 12, 10, 64, 3),
        case(2, 2, 7, 5, 9, 3), // odd size: the last output reads the padding
        case(3, 1, 4, 8, 5, 5),
        case(2, 1, 1, 1, 4, 3),
    ]
}
