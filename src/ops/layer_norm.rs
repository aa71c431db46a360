use super::{Case, Define, Operands, Shapes, mean_rstd, slot, values, weight};
use crate::shape::Shape;

/// `y = (x − mean) / sqrt(var + eps)` over the channels, then an affine map
/// if the checkpoint has one.
///
/// Operands: `x [n, h, w, c]`; with [`Affine::Channels`] also `weight [c]` and
/// `bias [c]`; with [`Affine::Gammas`] `gammas [6]`. `var` is the population variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance: `1e-6` in Stages A to C, `1e-5` in CLIP.
    pub eps: f32,
    /// What follows the normalisation.
    pub affine: Affine,
}

operands!(LayerNorm { X, WEIGHT, BIAS });

impl LayerNorm {
    /// Index of `gammas` among the operands, which is that of `weight` in [`Affine::Channels`].
    pub const GAMMAS: usize = Self::WEIGHT;
}

/// The affine map after a [`LayerNorm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affine {
    /// None.
    None,
    /// `y·weight + bias`, per channel.
    Channels,
    /// `y·(1 + gammas[0]) + gammas[1]`: Stage A's two scalars.
    Gammas,
}

impl Define for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match (self.affine, inputs) {
            (Affine::None, &[Some(x), None, None]) => Ok(x),
            (Affine::Channels, &[Some(x), Some(w), Some(b)]) if w == Shape::vector(x.c) && b == w => Ok(x),
            (Affine::Gammas, &[Some(x), Some(g), None]) if g == Shape::vector(6) => Ok(x),
            _ => Err("x [n, h, w, c] and the weights of its affine map: weight [c] and bias [c], or gammas [6]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.eps.to_bits(), self.affine as u32]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn flops(&self, _: Shapes<'_>, out: Shape) -> u64 {
        8 * out.elements() as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x").f32();
        let [first, bias] = [Self::WEIGHT, Self::BIAS].map(|i| inputs[i].map(|t| t.values()).unwrap_or_default());
        for (xs, ys) in x.chunks(shape.c).zip(out.chunks_mut(shape.c)) {
            let (mean, rstd) = mean_rstd(xs.iter().copied(), shape.c, self.eps);
            for (i, y) in ys.iter_mut().enumerate() {
                let v = (f64::from(xs[i]) - mean) * rstd;
                *y = match self.affine {
                    Affine::None => v,
                    Affine::Channels => v * f64::from(first[i]) + f64::from(bias[i]),
                    Affine::Gammas => v * (1.0 + f64::from(first[0])) + f64::from(first[1]),
                } as f32;
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = LayerNorm { eps: 1e-6, affine: Affine::None };
    let clip = LayerNorm { eps: 1e-5, affine: Affine::Channels };
    let stage_a = LayerNorm { eps: 1e-6, affine: Affine::Gammas };
    vec![
        Case::new(plain, vec![slot(2, 8, 8, 2048), None, None]),
        Case::new(clip, vec![slot(1, 1, 77, 1280), weight(&[1280]), weight(&[1280])]),
        Case::new(plain, vec![slot(2, 5, 3, 320), None, None]),
        Case::new(clip, vec![slot(1, 1, 1, 7), weight(&[7]), weight(&[7])]),
        Case::new(stage_a, vec![slot(2, 3, 5, 192), weight(&[6]), None]),
        Case::new(plain, vec![slot(1, 1, 3, 1), None, None]),
        Case::new(plain, vec![values(1, 1, 2, 333, &[30.0, 30.25, 29.5, 31.0, 29.875]), None, None]), // mean ≫ deviation
        Case::new(plain, vec![slot(1, 256, 257, 8), None, None]), // more rows than one dimension of a WebGPU grid may have
        Case::new(clip, vec![slot(1, 1, 5, 132), weight(&[132]), weight(&[132])]),
        Case::new(clip, vec![slot(1, 3, 5, 640), weight(&[640]), weight(&[640])]),
        Case::new(plain, vec![values(1, 1, 3, 1540, &[30.0, 30.25, 29.5, 31.0, 29.875]), None, None]),
        Case::new(stage_a, vec![slot(1, 2, 3, 2052), weight(&[6]), None]),
    ]
}
