use super::{Case, Define, Operands, Shapes, slot, weight};
use crate::shape::Shape;

/// Convolution with zero padding.
///
/// Operands: `x [n, h, w, c]`, `weight [o, c, kh, kw]`, optionally `bias [o]`.
/// Result `[n, (h + 2·padding − kh) / stride + 1, …, o]`, with the division rounded
/// down. A 1×1 convolution is recorded as [`Linear`](super::Linear). So is one whose stride
/// equals its kernel size (non-overlapping patches), after [`PixelUnshuffle`](super::PixelUnshuffle).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2d {
    /// Stride, in both directions.
    pub stride: usize,
    /// Rows and columns of zeros added on each side of the input.
    pub padding: usize,
}

operands!(Conv2d { X, WEIGHT, BIAS });

impl Define for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(Shape { n: o, h: c, w: kh, c: kw }), bias]
                if c == x.c
                    && bias.is_none_or(|b| b == Shape::vector(o))
                    && x.h + 2 * self.padding >= kh
                    && x.w + 2 * self.padding >= kw =>
            {
                let size = |extent, kernel| (extent + 2 * self.padding - kernel) / self.stride + 1;
                Ok(Shape::new(x.n, size(x.h, kh), size(x.w, kw), o))
            }
            _ => Err("x [n, h, w, c] at least as large as the kernel, weight [o, c, kh, kw], bias [o] if any".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.stride as u32, self.padding as u32]
    }

    fn feeds_gemm(&self, i: usize, _: bool) -> bool {
        i == Self::X || i == Self::WEIGHT
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        2 * (out.elements() * inputs[Self::WEIGHT].map_or(0, |w| w.h * w.w * w.c)) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x");
        let (h, w, c) = (x.shape.h, x.shape.w, x.shape.c);
        let Shape { w: kh, c: kw, .. } = inputs[Self::WEIGHT].expect("weight").shape;
        let (weight, bias) = (inputs[Self::WEIGHT].expect("weight").values(), inputs[Self::BIAS].map(|b| b.values()));
        for (i, y) in out.iter_mut().enumerate() {
            let (o, col) = (i % shape.c, i / shape.c % shape.w);
            let (row, image) = (i / shape.c / shape.w % shape.h, i / shape.c / shape.w / shape.h);
            let mut sum = bias.as_ref().map_or(0.0, |b| f64::from(b[o]));
            for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                // Coordinates in the padded input; those in the padding contribute zero.
                let (py, px) = (row * self.stride + ky, col * self.stride + kx);
                if (self.padding..h + self.padding).contains(&py) && (self.padding..w + self.padding).contains(&px) {
                    let at = ((image * h + py - self.padding) * w + px - self.padding) * c;
                    for k in 0..c {
                        sum += f64::from(x.f32()[at + k]) * f64::from(weight[((o * c + k) * kh + ky) * kw + kx]);
                    }
                }
            }
            *y = sum as f32;
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |stride, padding, x, w: &[usize], bias: bool| {
        Case::new(Conv2d { stride, padding }, vec![x, weight(w), bias.then(|| weight(&w[..1])).flatten()]).bf16(2e-2)
    };
    vec![
        case(2, 0, slot(1, 8, 8, 32), &[64, 32, 2, 2], true),
        case(2, 0, slot(2, 7, 5, 9), &[13, 9, 2, 2], true), // odd size: last row and column dropped
        case(2, 1, slot(1, 12, 10, 16), &[24, 16, 4, 4], true), // Stage A, encoding
        case(2, 1, slot(2, 9, 6, 3), &[8, 3, 3, 3], false),
        case(1, 1, slot(1, 5, 4, 6), &[5, 6, 3, 3], true),
        case(2, 1, slot(1, 6, 7, 18), &[66, 18, 3, 2], true), // a kernel that is not square
        case(1, 1, slot(1, 5, 4, 8), &[12, 8, 3, 2], true), // nor is this one; channels in fours
        case(4, 0, slot(2, 8, 12, 3), &[10, 3, 4, 4], false), // patches
    ]
}
