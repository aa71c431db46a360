use super::{Case, Define, Function, Operands, Shapes, slot, weight};
use crate::shape::Shape;

/// Batch normalisation with running statistics, as used for inference:
/// `y = f((x − mean) / sqrt(var + eps) · weight + bias)`.
///
/// Operands: `x [n, h, w, c]`, `mean [c]`, `var [c]`, then `weight [c]` and
/// `bias [c]`, both or neither.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance: `1e-5`, or `1e-3` in the EfficientNet backbone.
    pub eps: f32,
    /// Activation function applied to the result.
    pub function: Function,
}

operands!(BatchNorm { X, MEAN, VAR, WEIGHT, BIAS });

impl Define for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(mean), Some(var), weight, bias]
                if [Some(mean), Some(var), weight, bias].into_iter().flatten().all(|v| v == Shape::vector(x.c))
                    && weight.is_some() == bias.is_some() =>
            {
                Ok(x)
            }
            _ => Err("x [n, h, w, c], mean [c], var [c], and weight [c] with bias [c] if any".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.eps.to_bits(), self.function as u32]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x").f32();
        let [mean, var, weight, bias] =
            [Self::MEAN, Self::VAR, Self::WEIGHT, Self::BIAS].map(|i| inputs[i].map(|t| t.values()));
        let (mean, var) = (mean.expect("mean"), var.expect("var"));
        for (i, y) in out.iter_mut().enumerate() {
            let c = i % shape.c;
            let mut v = (x[i] - mean[c]) / (var[c] + self.eps).sqrt();
            if let (Some(weight), Some(bias)) = (&weight, &bias) {
                v = v * weight[c] + bias[c];
            }
            *y = self.function.apply(v);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let w = || weight(&[7]);
    let case = |eps, function, inputs| Case::new(BatchNorm { eps, function }, inputs);
    vec![
        case(1e-5, Function::Identity, vec![slot(2, 3, 5, 7), w(), w(), w(), w()]),
        case(1e-3, Function::Silu, vec![slot(1, 2, 2, 7), w(), w(), None, None]),
    ]
}
