use super::{Case, Define, Function, Operands, Shapes, mean_rstd, slot, values, weight};
use crate::shape::Shape;

/// `y = f((x − mean) / sqrt(var + eps) · weight + bias)`, with statistics over all
/// pixels and the channels of one group.
///
/// Operands: `x [n, h, w, c]`, `weight [c]`, `bias [c]`; `groups` divides `c`.
/// Stable Cascade itself does not use it; networks built on Stable Cascade do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Number of groups.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Activation function applied to the result, usually SiLU.
    pub function: Function,
}

operands!(GroupNorm { X, WEIGHT, BIAS });
constants!(GroupNorm { GROUPS, EPS, FUNCTION });

impl Define for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(w), Some(b)]
                if w == Shape::vector(x.c) && b == w && self.groups > 0 && x.c % self.groups == 0 =>
            {
                Ok(x)
            }
            _ => Err(format!("x [n, h, w, c] with c a multiple of {}, weight [c], bias [c]", self.groups)),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.groups as u32, self.eps.to_bits(), self.function as u32]
    }

    fn flops(&self, _: Shapes<'_>, out: Shape) -> u64 {
        8 * out.elements() as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x").f32();
        let [weight, bias] = [Self::WEIGHT, Self::BIAS].map(|i| inputs[i].expect("weight and bias").values());
        let (c, per_group) = (shape.c, shape.c / self.groups);
        let image = shape.tokens() * c;
        for (xs, ys) in x.chunks(image).zip(out.chunks_mut(image)) {
            for group in 0..self.groups {
                let channels = group * per_group..(group + 1) * per_group;
                let values = xs.chunks(c).flat_map(|row| row[channels.clone()].iter().copied());
                let (mean, rstd) = mean_rstd(values, shape.tokens() * per_group, self.eps);
                for (x, y) in xs.chunks(c).zip(ys.chunks_mut(c)) {
                    for ch in channels.clone() {
                        let v = ((f64::from(x[ch]) - mean) * rstd) as f32;
                        y[ch] = self.function.apply(v * weight[ch] + bias[ch]);
                    }
                }
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |groups, function, n, h, w, c: usize| {
        Case::new(GroupNorm { groups, eps: 1e-5, function }, vec![slot(n, h, w, c), weight(&[c]), weight(&[c])])
    };
    let offset = |c| {
        let mut offset = case(2, Function::Identity, 1, 33, 16, c); // mean ≫ deviation
        offset.inputs[GroupNorm::X] = values(1, 33, 16, c, &[30.0, 30.25, 29.5, 31.0, 29.875]);
        offset
    };
    vec![
        case(32, Function::Silu, 2, 16, 16, 320),
        case(3, Function::Identity, 2, 3, 5, 9),
        case(1, Function::Silu, 1, 1, 1, 7),
        offset(6),
        offset(8),
        case(11, Function::Silu, 2, 9, 15, 132), // four more channels than a thread block handles at once
    ]
}
