use super::{Case, Define, Operands, Shapes, weight};
use crate::shape::Shape;

/// `y = tokens[ids] + positions`: the embeddings of a text encoder. Without positions, a table lookup.
///
/// Operands: `ids [n, 1, t, 1]` (u32, below `v`), `tokens [v, c]`, optionally `positions [p, c]`
/// with `p ≥ t`. Result `[n, 1, t, c]`. An id of `v` or more reads the last row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embed;

operands!(Embed { IDS, TOKENS, POSITIONS });

impl Define for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(ids), Some(tokens), positions]
                if ids.h * ids.c == 1 && positions.is_none_or(|p| p.c == tokens.c && p.w >= ids.w) =>
            {
                Ok(ids.with_c(tokens.c))
            }
            _ => Err("ids [n, 1, t, 1], tokens [v, c], positions [p, c] with p ≥ t".into()),
        }
    }

    fn reads(&self, i: usize, shape: Shape, out: Shape) -> usize {
        // One row of each table per token.
        if i == Self::IDS { shape.elements() } else { shape.elements().min(out.elements()) }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let ids = inputs[Self::IDS].expect("ids").u32();
        let (tokens, positions) = (inputs[Self::TOKENS].expect("tokens"), inputs[Self::POSITIONS]);
        let last = tokens.shape.w - 1;
        for (row, ys) in out.chunks_mut(shape.c).enumerate() {
            let token = tokens.weight().row((ids[row] as usize).min(last), shape.c);
            let position = positions.map(|p| p.weight().row(row % shape.w, shape.c));
            for (i, y) in ys.iter_mut().enumerate() {
                *y = token.get(i) + position.map_or(0.0, |p| p.get(i));
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let ids = || Some(super::Operand::Index(Shape::new(2, 1, 3, 1), vec![0, 6, 3, 2, 2, 5]));
    vec![
        Case::new(Embed, vec![ids(), weight(&[7, 10]), weight(&[4, 10])]),
        Case::new(Embed, vec![ids(), weight(&[7, 10]), None]),
        Case::new(Embed, vec![ids(), weight(&[6, 7]), weight(&[3, 7])]), // an odd row length, and an id out of range
    ]
}
