use super::{Case, Define, Operands, Shapes, slot};
use crate::shape::Shape;

/// Concatenates two tensors along one axis.
///
/// Operands and result:
/// * channels: `a [n, h, w, c0]` and `b [n, h, w, c1]` → `[n, h, w, c0 + c1]`;
/// * tokens: `a [n, 1, s0, c]` and `b [n, 1, s1, c]` → `[n, 1, s0 + s1, c]`;
/// * images: `a [n0, h, w, c]` and `b [n1, h, w, c]` → `[n0 + n1, h, w, c]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concat {
    /// Along the last axis.
    Channels,
    /// Along `w`, of tensors with `h = 1`.
    Tokens,
    /// Along the first axis.
    Images,
}

operands!(Concat { A, B });

impl Define for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match (self, inputs) {
            (Concat::Channels, &[Some(a), Some(b)]) if a.with_c(0) == b.with_c(0) => Ok(a.with_c(a.c + b.c)),
            (Concat::Tokens, &[Some(a), Some(b)]) if a.n == b.n && a.c == b.c && a.h * b.h == 1 => {
                Ok(a.with_hw(1, a.w + b.w))
            }
            (Concat::Images, &[Some(a), Some(b)]) if (Shape { n: b.n, ..a }) == b => Ok(Shape { n: a.n + b.n, ..a }),
            (Concat::Images, _) => Err("a [n0, h, w, c] and b [n1, h, w, c]".into()),
            (Concat::Channels, _) => Err("a [n, h, w, c0] and b [n, h, w, c1]".into()),
            (Concat::Tokens, _) => Err("a [n, 1, s0, c] and b [n, 1, s1, c]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![*self as u32]
    }

    fn feeds_gemm(&self, _: usize, feeds_gemm: bool) -> bool {
        feeds_gemm
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], _: Shape) {
        let [a, b] = [Self::A, Self::B].map(|i| inputs[i].expect("a and b"));
        let [len_a, len_b] = [a, b].map(|t| match self {
            Concat::Channels => t.shape.c,
            Concat::Tokens => t.shape.w * t.shape.c,
            Concat::Images => t.shape.elements(),
        });
        let pieces = a.f32().chunks(len_a).zip(b.f32().chunks(len_b));
        for (y, (a, b)) in out.chunks_mut(len_a + len_b).zip(pieces) {
            y[..len_a].copy_from_slice(a);
            y[len_a..].copy_from_slice(b);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(Concat::Channels, vec![slot(2, 3, 5, 7), slot(2, 3, 5, 4)]),
        Case::new(Concat::Tokens, vec![slot(2, 1, 77, 24), slot(2, 1, 4, 24)]),
        Case::new(Concat::Images, vec![slot(2, 3, 5, 4), slot(1, 3, 5, 4)]),
        Case::new(Concat::Channels, vec![slot(2, 5, 7, 12), slot(2, 5, 7, 20)]),
        Case::new(Concat::Tokens, vec![slot(2, 1, 5, 7), slot(2, 1, 4, 7)]),
        Case::new(Concat::Images, vec![slot(2, 3, 5, 3), slot(1, 3, 5, 3)]),
    ]
}
