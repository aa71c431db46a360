use super::{Case, Define, Operands, Shapes, index, slot};
use crate::shape::Shape;

/// `y[i] = x[index[i]]` for whole rows of channels.
///
/// Operands: `x [n, h, w, c]`, `index [1, 1, 1, m]` (u32, below `n·h·w`; larger indices
/// read the last row). Result `[m, 1, 1, c]`. Selects the end-of-text token of
/// each prompt, and copies a prompt's states to each image of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gather;

operands!(Gather { X, INDEX });

impl Define for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(index)] if index == Shape::vector(index.c) && x.elements() > 0 => {
                Ok(Shape::new(index.c, 1, 1, x.c))
            }
            _ => Err("x [n, h, w, c] and index [1, 1, 1, m]".into()),
        }
    }

    fn reads(&self, i: usize, shape: Shape, out: Shape) -> usize {
        if i == Self::X { shape.elements().min(out.elements()) } else { shape.elements() }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let (x, index) = (inputs[Self::X].expect("x"), inputs[Self::INDEX].expect("index").u32());
        for (ys, &i) in out.chunks_mut(shape.c).zip(index) {
            let row = (i as usize).min(x.shape.rows() - 1);
            ys.copy_from_slice(&x.f32()[row * shape.c..][..shape.c]);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![Case::new(Gather, vec![slot(2, 1, 77, 40), index(&[8, 78, 78, 0, 153, 154, 9999])])]
}
