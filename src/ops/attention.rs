use super::{Case, Define, Operands, Shapes, index, slot};
use crate::shape::Shape;

/// `softmax(Q·Kᵀ / √d)·V` for each head. The keys are the image's own tokens, the context's tokens, or both.
///
/// Operands:
/// 0. `x`: with [`self_part`](Self::self_part) `[n, h, w, 3c]`, Q, K and V concatenated along the channels;
///    otherwise Q alone, `[n, h, w, c]`.
/// 1. `context [n, 1, s, 2c]`, optional: K and V of the context tokens, concatenated along the
///    channels. These keys come after the image's own, and may be computed once per prompt.
/// 2. `key_len [1, 1, 1, n]` (u32), optional and not together with a context: image `i` attends only to its
///    first `key_len[i]` own keys. At least 1.
///
/// Result `[n, h, w, c]`, heads concatenated. There is no mask besides `causal` and `key_len`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Channels of one head, `d`.
    pub head_dim: usize,
    /// Whether the tokens attend to each other (self-attention), in addition to the context.
    pub self_part: bool,
    /// Whether token `i` attends only to its own keys `0..=i`.
    pub causal: bool,
}

operands!(Attention { X, CONTEXT, KEY_LEN });
constants!(Attention { HEADS, HEAD_DIM, SELF_PART, CAUSAL });

impl Attention {
    /// `heads · head_dim`.
    pub fn channels(&self) -> usize {
        self.heads * self.head_dim
    }

    fn keys(&self, inputs: Shapes<'_>) -> usize {
        let own = if self.self_part { inputs[Self::X].map_or(0, |x| x.tokens()) } else { 0 };
        own + inputs[Self::CONTEXT].map_or(0, |c| c.tokens())
    }
}

impl Define for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        let c = self.channels();
        let takes = || {
            let x = if self.self_part { 3 * c } else { c };
            format!("x [n, h, w, {x}], context [n, 1, s, {}] if any, or key_len [1, 1, 1, n], if any", 2 * c)
        };
        let [Some(x), context, key_len] = *inputs else { return Err(takes()) };
        let fits = x.c == if self.self_part { 3 * c } else { c }
            && context.is_none_or(|k| k.n == x.n && k.c == 2 * c)
            && key_len.is_none_or(|l| l == Shape::vector(x.n) && context.is_none())
            && self.keys(inputs) > 0;
        if fits { Ok(x.with_c(c)) } else { Err(takes()) }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.heads as u32, self.head_dim as u32, u32::from(self.self_part), u32::from(self.causal)]
    }

    fn feeds_gemm(&self, i: usize, _: bool) -> bool {
        i == Self::X || i == Self::CONTEXT
    }

    fn flops(&self, inputs: Shapes<'_>, out: Shape) -> u64 {
        4 * (out.rows() * self.keys(inputs) * self.channels()) as u64
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let (c, d, tokens) = (self.channels(), self.head_dim, shape.tokens());
        let x = inputs[Self::X].expect("x");
        let context = inputs[Self::CONTEXT].map(|t| (t.f32(), t.shape.tokens()));
        for row in 0..shape.rows() {
            let (image, token) = (row / tokens, row % tokens);
            let mut own = if self.self_part { tokens } else { 0 };
            if let Some(len) = inputs[Self::KEY_LEN] {
                own = own.min(len.u32()[image] as usize);
            }
            if self.causal {
                own = own.min(token + 1);
            }
            for head in 0..self.heads {
                // Key and value of each visible token, as slices of d.
                let own_kv = (0..own).map(|t| {
                    let at = (image * tokens + t) * x.shape.c + c + head * d;
                    (&x.f32()[at..at + d], &x.f32()[at + c..at + c + d])
                });
                let context_kv = context.into_iter().flat_map(|(kv, s)| {
                    (0..s).map(move |t| {
                        let at = (image * s + t) * 2 * c + head * d;
                        (&kv[at..at + d], &kv[at + c..at + c + d])
                    })
                });
                let q = &x.f32()[row * x.shape.c + head * d..][..d];
                let dot = |k: &[f32]| q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
                let scored: Vec<(f64, &[f32])> =
                    own_kv.chain(context_kv).map(|(k, v)| (dot(k) / (d as f64).sqrt(), v)).collect();
                let max = scored.iter().map(|(s, _)| *s).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scored.iter().map(|(s, _)| (s - max).exp()).sum();
                for i in 0..d {
                    let y: f64 = scored.iter().map(|(s, v)| (s - max).exp() / sum * f64::from(v[i])).sum();
                    out[row * c + head * d + i] = y as f32;
                }
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let own = |heads, head_dim| Attention { heads, head_dim, self_part: true, causal: false };
    let few = |keys| Case::new(own(4, 64), vec![slot(1, 1, 2, 768), slot(1, 1, keys, 512), None]).bf16(2e-2);
    vec![
        Case::new(own(2, 64), vec![slot(2, 12, 12, 3 * 128), slot(2, 1, 85, 2 * 128), None]).bf16(2e-2),
        Case::new(own(20, 64), vec![slot(1, 3, 5, 3 * 1280), slot(1, 1, 4, 2 * 1280), None]).bf16(2e-2),
        Case::new(Attention { causal: true, ..own(4, 10) }, vec![slot(2, 1, 77, 120), None, index(&[9, 2])]).bf16(2e-2),
        Case::new(Attention { self_part: false, ..own(3, 8) }, vec![slot(2, 4, 3, 24), slot(2, 1, 5, 48), None])
            .bf16(2e-2),
        Case::new(Attention { causal: true, ..own(1, 64) }, vec![slot(1, 1, 70, 192), slot(1, 1, 5, 128), None])
            .bf16(2e-2),
        Case::new(Attention { causal: true, ..own(2, 64) }, vec![slot(2, 1, 77, 384), None, index(&[9, 70])])
            .bf16(2e-2),
        // More tiles of keys than a software pipeline has stages.
        Case::new(own(1, 64), vec![slot(1, 5, 79, 192), slot(1, 1, 133, 128), None]).bf16(2e-2),
        Case::new(own(1, 7), vec![slot(1, 1, 1, 21), None, None]).bf16(2e-2),
        Case::new(own(2, 32), vec![slot(1, 9, 11, 192), None, None]).bf16(2e-2),
        // The last tile has as many keys as the narrower MMA instructions cover, or one more. There are so few keys
        // that a single wrong one exceeds the tolerance.
        few(8),
        few(9),
        few(32),
        few(33),
    ]
}
