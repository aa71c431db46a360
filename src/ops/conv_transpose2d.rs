use super::{Case, Define, Operands, Shapes, slot, weight};
use crate::shape::Shape;

/// Transposed convolution: every input pixel, multiplied by the kernel, is added to a
/// `kh × kw` region of the output.
///
/// Operands: `x [n, h, w, c]`, `weight [c, o, kh, kw]` (input channels first, as PyTorch
/// stores it) with a kernel at least as large as the stride, optionally `bias [o]`.
/// Result `[n, (h − 1)·stride + kh − 2·padding, …, o]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvTranspose2d {
    /// Output pixels between the regions of neighbouring input pixels, in both directions.
    pub stride: usize,
    /// Rows and columns removed on each side of the output.
    pub padding: usize,
}

operands!(ConvTranspose2d { X, WEIGHT, BIAS });
constants!(ConvTranspose2d { STRIDE, PADDING });

impl Define for ConvTranspose2d {
    fn name(&self) -> &'static str {
        "conv_transpose2d"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(Shape { n: c, h: o, w: kh, c: kw }), bias]
                if c == x.c
                    && bias.is_none_or(|b| b == Shape::vector(o))
                    && kh.min(kw) >= self.stride
                    && (x.h - 1) * self.stride + kh > 2 * self.padding
                    && (x.w - 1) * self.stride + kw > 2 * self.padding =>
            {
                let size = |extent: usize, kernel| (extent - 1) * self.stride + kernel - 2 * self.padding;
                Ok(Shape::new(x.n, size(x.h, kh), size(x.w, kw), o))
            }
            _ => Err("x [n, h, w, c], weight [c, o, kh, kw] with kh, kw >= stride, bias [o] if any".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.stride as u32, self.padding as u32]
    }

    fn feeds_gemm(&self, i: usize, _: bool) -> bool {
        i == Self::X || i == Self::WEIGHT
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        let per_pixel = inputs[Self::WEIGHT].map_or(0, |w| w.n * w.h * w.w * w.c);
        2 * (inputs[Self::X].map_or(out.rows(), |x| x.rows()) * per_pixel) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x");
        let Shape { w: kh, c: kw, .. } = inputs[Self::WEIGHT].expect("weight").shape;
        let (weight, bias) = (inputs[Self::WEIGHT].expect("weight").values(), inputs[Self::BIAS].map(|b| b.values()));
        let (h, w, c, o) = (x.shape.h, x.shape.w, x.shape.c, shape.c);
        for (i, y) in out.iter_mut().enumerate() {
            *y = bias.as_ref().map_or(0.0, |b| b[i % o]);
        }
        for (i, &v) in x.f32().iter().enumerate() {
            let (k, col, row, image) = (i % c, i / c % w, i / c / w % h, i / c / w / h);
            for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                let (py, px) = (row * self.stride + ky, col * self.stride + kx);
                let inside = (self.padding..shape.h + self.padding).contains(&py)
                    && (self.padding..shape.w + self.padding).contains(&px);
                if inside {
                    let at = ((image * shape.h + py - self.padding) * shape.w + px - self.padding) * o;
                    for j in 0..o {
                        out[at + j] += v * weight[((k * o + j) * kh + ky) * kw + kx];
                    }
                }
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |stride, padding, x, w: &[usize], bias: bool| {
        let bias = bias.then(|| weight(&w[1..2])).flatten();
        Case::new(ConvTranspose2d { stride, padding }, vec![x, weight(w), bias]).bf16(2e-2)
    };
    vec![
        case(2, 1, slot(1, 8, 8, 48), &[48, 24, 4, 4], true), // Stage A, decoding
        case(2, 1, slot(2, 3, 5, 7), &[7, 5, 4, 4], false),
        case(2, 0, slot(1, 4, 6, 16), &[16, 12, 2, 2], true), // Stage B, between levels
        case(2, 0, slot(2, 3, 1, 9), &[9, 3, 2, 2], false),
        case(2, 1, slot(1, 1, 1, 4), &[4, 3, 4, 4], true),
        case(3, 2, slot(2, 4, 5, 6), &[6, 7, 5, 4], true), // a kernel that is not square
        case(3, 2, slot(2, 4, 5, 8), &[8, 12, 5, 4], true), // nor is this one; channels in fours
        case(2, 0, slot(1, 5, 18, 520), &[520, 40, 2, 2], true),
        case(2, 0, slot(2, 9, 17, 456), &[456, 48, 2, 2], true), // more pixels than 256
        case(2, 1, slot(2, 5, 17, 96), &[96, 32, 4, 4], true),
        case(2, 1, slot(1, 3, 34, 32), &[32, 224, 4, 4], false), // an odd number of tiles
    ]
}
