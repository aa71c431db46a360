use super::{Case, Define, Function, Operands, Shapes, index, slot, weight};
use crate::shape::Shape;

/// A linear layer with the prologue and epilogue ops that can be fused into it:
///
/// `y = f((x·scale + shift)·Wᵀ + bias) + residual`, then `y·(1 + a) + b`.
///
/// Operands, of which all after `weight` are optional:
/// 0. `x [n, h, w, k]`
/// 1. `weight [o, k]`, or several weights with the same `k` stacked by rows (Q, K and V)
/// 2. `bias [o]`
/// 3. `residual [n, h, w, o]`; the result may overwrite it
/// 4. `scale [n, 1, 1, k]` of global response normalisation, see [`GrnScale`](super::GrnScale)
/// 5. `shift [k]`, only with `scale`
/// 6. `table [n or 1, 1, steps, 2·o]`: `a` then `b` for every step (see [`Modulate`](super::Modulate))
/// 7. `counter [1, 1, 1, 1]` (u32), only with `table`: the current step
///
/// Every 1×1 convolution is recorded as this op too.
///
/// The definition multiplies exactly. A kernel may round both operands of the product to bf16 where that is allowed, and, where
/// the weight is [int8](crate::tensor::Int8), each row of `x·scale + shift` to integers from −127 to 127 with a factor of its
/// own, the smallest that holds the row; it then sums integers exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    /// Applied before the residual is added.
    pub function: Function,
}

operands!(Linear { X, WEIGHT, BIAS, RESIDUAL, SCALE, SHIFT, TABLE, COUNTER });

impl Define for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        let takes = "x [n, h, w, k], weight [o, k]; optional bias [o], residual [n, h, w, o], scale [n, 1, 1, k], \
                     shift [k], table [n or 1, 1, steps, 2o] with counter [1, 1, 1, 1]";
        let [Some(x), Some(w), bias, residual, scale, shift, table, counter] = *inputs else {
            return Err(takes.into());
        };
        let out = x.with_c(w.w);
        let fits = w == Shape::matrix(w.w, x.c)
            && bias.is_none_or(|b| b == Shape::vector(out.c))
            && residual.is_none_or(|r| r == out)
            && scale.is_none_or(|s| s == Shape::new(x.n, 1, 1, x.c))
            && shift.is_none_or(|s| s == Shape::vector(x.c) && scale.is_some())
            && table.is_none_or(|t| (t.n == 1 || t.n == x.n) && t.h == 1 && t.c == 2 * out.c)
            && table.is_some() == counter.is_some();
        if fits { Ok(out) } else { Err(takes.into()) }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.function as u32]
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::RESIDUAL)
    }

    fn feeds_gemm(&self, i: usize, _: bool) -> bool {
        i == Self::X || i == Self::WEIGHT
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        2 * (out.elements() * inputs[Self::X].map_or(0, |x| x.c)) as u64
    }

    fn reads(&self, i: usize, shape: Shape, _: Shape) -> usize {
        // Only the current step's row of the table is read.
        if i == Self::TABLE { shape.elements() / shape.w } else { shape.elements() }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let (x, w) = (inputs[Self::X].expect("x"), inputs[Self::WEIGHT].expect("weight").values());
        let [bias, residual, scale, shift] =
            [Self::BIAS, Self::RESIDUAL, Self::SCALE, Self::SHIFT].map(|i| inputs[i].map(|t| t.values()));
        let k = x.shape.c;
        for (row, ys) in out.chunks_mut(shape.c).enumerate() {
            let image = row / shape.tokens();
            let xs: Vec<f64> = (0..k)
                .map(|i| {
                    let s = scale.as_ref().map_or(1.0, |s| f64::from(s[image * k + i]));
                    let t = shift.as_ref().map_or(0.0, |t| f64::from(t[i]));
                    f64::from(x.f32()[row * k + i]) * s + t
                })
                .collect();
            let step = super::modulate::row(inputs[Self::TABLE], inputs[Self::COUNTER], image);
            for (o, y) in ys.iter_mut().enumerate() {
                let dot: f64 = w[o * k..][..k].iter().zip(&xs).map(|(&w, x)| f64::from(w) * x).sum();
                let mut v = self.function.apply((dot + bias.as_ref().map_or(0.0, |b| f64::from(b[o]))) as f32);
                if let Some(residual) = &residual {
                    v += residual[row * shape.c + o];
                }
                *y = step.map_or(v, |ab| v * (1.0 + ab[o]) + ab[shape.c + o]);
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let plain = |m: usize, k: usize, o: usize| {
        vec![slot(1, 1, m, k), weight(&[o, k]), weight(&[o]), None, None, None, None, None]
    };
    let case = |function, inputs| Case::new(Linear { function }, inputs).bf16(2e-2).int8(4e-2);
    let gelu = Function::GeluErf;
    vec![
        case(Function::Identity, plain(96, 512, 256)),
        case(gelu, plain(77, 160, 320)),
        // Everything at once, as at the end of a block; then with a table per image.
        case(
            Function::Identity,
            vec![
                slot(2, 3, 5, 40),
                weight(&[24, 40]),
                weight(&[24]),
                slot(2, 3, 5, 24),
                slot(2, 1, 1, 40),
                weight(&[40]),
                slot(1, 1, 4, 48),
                index(&[2]),
            ],
        ),
        case(
            Function::Silu,
            vec![
                slot(2, 1, 9, 17),
                weight(&[33, 17]),
                None,
                slot(2, 1, 9, 33),
                None,
                None,
                slot(2, 1, 3, 66),
                index(&[0]),
            ],
        ),
        // The same for few rows.
        case(
            gelu,
            vec![
                slot(2, 1, 3, 37),
                weight(&[21, 37]),
                weight(&[21]),
                slot(2, 1, 3, 21),
                slot(2, 1, 1, 37),
                weight(&[37]),
                slot(2, 1, 2, 42),
                index(&[1]),
            ],
        ),
        // And for more rows and channels than a tile has.
        case(
            Function::QuickGelu,
            vec![
                slot(2, 13, 11, 72),
                weight(&[136, 72]),
                weight(&[136]),
                slot(2, 13, 11, 136),
                slot(2, 1, 1, 72),
                weight(&[72]),
                slot(2, 1, 2, 272),
                index(&[1]),
            ],
        ),
        case(gelu, plain(300, 136, 200)),
        // And with a K larger than all stages of a software pipeline hold, and two images in one tile.
        case(
            Function::Identity,
            vec![
                slot(2, 5, 13, 1096),
                weight(&[104, 1096]),
                weight(&[104]),
                None,
                slot(2, 1, 1, 1096),
                weight(&[1096]),
                None,
                None,
            ],
        ),
        // And with a K of whole tiles, as layers of the networks have it.
        case(
            Function::Identity,
            vec![
                slot(2, 5, 13, 640),
                weight(&[104, 640]),
                weight(&[104]),
                None,
                slot(2, 1, 1, 640),
                weight(&[640]),
                None,
                None,
            ],
        ),
        case(gelu, plain(70, 1104, 168)),
        case(Function::QuickGelu, plain(1, 3, 5)),
        case(Function::Identity, plain(13, 1, 1)),
        case(gelu, plain(130, 259, 67)),
        case(Function::Identity, vec![slot(1, 4, 4, 16), weight(&[48, 16]), None, None, None, None, None, None]),
    ]
}
