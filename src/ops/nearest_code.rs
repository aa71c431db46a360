use super::{Case, Define, Operands, Shapes, slot, values, weight};
use crate::shape::Shape;

/// Replaces each pixel by the nearest entry of a codebook (Euclidean distance; of equally near entries, the first).
///
/// Operands: `x [n, h, w, c]`, `codes [m, c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearestCode;

operands!(NearestCode { X, CODES });

impl Define for NearestCode {
    fn name(&self) -> &'static str {
        "nearest_code"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(x), Some(codes)] if codes == Shape::matrix(codes.w, x.c) && codes.w > 0 => Ok(x),
            _ => Err("x [n, h, w, c] and codes [m, c]".into()),
        }
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let (x, codes) = (inputs[Self::X].expect("x").f32(), inputs[Self::CODES].expect("codes").values());
        for (xs, ys) in x.chunks(shape.c).zip(out.chunks_mut(shape.c)) {
            let distance = |code: &[f32]| -> f32 { code.iter().zip(xs).map(|(a, b)| (a - b).powi(2)).sum() };
            let nearest = codes.chunks(shape.c).min_by(|a, b| distance(a).total_cmp(&distance(b)));
            ys.copy_from_slice(nearest.expect("the codebook is not empty"));
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(NearestCode, vec![slot(2, 3, 5, 4), weight(&[16, 4])]),
        Case::new(NearestCode, vec![slot(1, 5, 5, 3), weight(&[2, 3])]),
        Case::new(NearestCode, vec![values(1, 1, 1, 3, &[1e8]), weight(&[5, 3])]), // all distances are equal in f32
    ]
}
