use super::{Case, Define, Operands, Shapes, index, slot};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Timestep conditioning: `y = x·(1 + a) + b`.
///
/// Operands: `x [n, h, w, c]`; `table [n or 1, 1, steps, 2c]`, which holds `a` then `b` for every
/// step and is shared by all images if its `n` is 1; `counter [1, 1, 1, 1]` (u32), the current step.
/// Usually it is fused into the epilogue of the linear layer before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Modulate;

operands!(Modulate { X, TABLE, COUNTER });

/// The table's row, `a` then `b`, for `image` and the step in `counter`.
pub(super) fn row<'a>(table: Option<Tensor<'a>>, counter: Option<Tensor<'_>>, image: usize) -> Option<&'a [f32]> {
    let (table, step) = (table?, counter?.u32()[0] as usize);
    let image = if table.shape.n == 1 { 0 } else { image };
    Some(&table.f32()[(image * table.shape.w + step) * table.shape.c..][..table.shape.c])
}

impl Define for Modulate {
    fn name(&self) -> &'static str {
        "modulate"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(table), Some(counter)]
                if (table.n == 1 || table.n == x.n)
                    && table.h == 1
                    && table.c == 2 * x.c
                    && counter == Shape::vector(1) =>
            {
                Ok(x)
            }
            _ => Err("x [n, h, w, c], table [n or 1, 1, steps, 2c], counter [1, 1, 1, 1]".into()),
        }
    }

    fn in_place(&self) -> Option<usize> {
        Some(Self::X)
    }

    fn reads(&self, i: usize, shape: Shape, _: Shape) -> usize {
        // Only the current step's row of the table is read.
        if i == Self::TABLE { shape.elements() / shape.w } else { shape.elements() }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let x = inputs[Self::X].expect("x").f32();
        for (i, y) in out.iter_mut().enumerate() {
            let image = i / shape.c / shape.tokens();
            let ab = row(inputs[Self::TABLE], inputs[Self::COUNTER], image).expect("table and counter");
            *y = x[i] * (1.0 + ab[i % shape.c]) + ab[shape.c + i % shape.c];
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(Modulate, vec![slot(2, 3, 5, 7), slot(1, 1, 4, 14), index(&[3])]),
        Case::new(Modulate, vec![slot(2, 8, 8, 64), slot(2, 1, 2, 128), index(&[1])]),
    ]
}
