//! Joins the states of a prompt's chunks, and weighs them.

use super::Syntax;
use crate::pipeline::{HostTensor, TextEmbeddings};
use crate::shape::Shape;

/// From the states of `count` chunks of every text, and of an empty one at the end, to one row for each text. `weights` has
/// those of every position of a text's own chunks; further chunks are empty and have weight 1. Pooled text is that of the
/// first chunk, without weights.
pub(super) fn join(encoded: &TextEmbeddings, weights: &[Vec<f32>], count: usize, syntax: Syntax) -> TextEmbeddings {
    let texts = weights.len();
    let first_chunks: Vec<usize> = (0..texts).map(|text| text * count).collect();
    let pooled = encoded.pooled.rows(&first_chunks);
    let states = encoded.states.as_ref().map(|states| {
        let Shape { w: positions, c, .. } = states.shape;
        let empty = states.images(&[states.shape.n - 1]);
        let mut values = Vec::with_capacity(texts * count * positions * c);
        for (text, weights) in weights.iter().enumerate() {
            let chunks: Vec<usize> = (text * count..(text + 1) * count).collect();
            let mut own = states.images(&chunks);
            weigh(&mut own, &empty, weights, c, syntax);
            values.extend(own);
        }
        HostTensor { shape: Shape { n: texts, w: count * positions, ..states.shape }, values }
    });
    TextEmbeddings { states, pooled }
}

/// Weighs the states `[positions, c]` of one text.
fn weigh(states: &mut [f32], empty: &[f32], weights: &[f32], c: usize, syntax: Syntax) {
    match syntax {
        Syntax::Plain => {}
        Syntax::WebUi => {
            let mean = |states: &[f32]| states.iter().map(|v| f64::from(*v)).sum::<f64>() / states.len() as f64;
            if weights.iter().all(|weight| *weight == 1.0) {
                return;
            }
            let before = mean(states);
            for (state, weight) in states.chunks_mut(c).zip(weights) {
                state.iter_mut().for_each(|v| *v *= weight);
            }
            let after = mean(states);
            if after != 0.0 {
                states.iter_mut().for_each(|v| *v = (f64::from(*v) * before / after) as f32);
            }
        }
        Syntax::ComfyUi => {
            for (i, (state, weight)) in
                states.chunks_mut(c).zip(weights).enumerate().filter(|(_, (_, weight))| **weight != 1.0)
            {
                let base = &empty[i * c % empty.len()..][..c];
                state.iter_mut().zip(base).for_each(|(v, base)| *v = (*v - base) * weight + base);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two texts of up to two chunks of two positions, one channel; the last row is an empty chunk.
    fn encoded() -> TextEmbeddings {
        let states = HostTensor {
            shape: Shape::new(5, 1, 2, 1),
            values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, 0.25, 0.5, 0.25],
        };
        let pooled = HostTensor { shape: Shape::new(5, 1, 1, 1), values: vec![1.0, 2.0, 3.0, 4.0, 5.0] };
        TextEmbeddings { states: Some(states), pooled }
    }

    #[test]
    fn chunks_are_joined() {
        let joined = join(&encoded(), &[vec![1.0; 4], vec![1.0; 2]], 2, Syntax::WebUi);
        let states = joined.states.unwrap();
        assert_eq!(states.shape, Shape::new(2, 1, 4, 1));
        assert_eq!(states.values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, 0.25]);
        assert_eq!(joined.pooled.values, [1.0, 3.0]);
    }

    #[test]
    fn weights_of_webui_keep_the_mean() {
        let weights = [vec![1.0, 2.0, 1.0, 1.0], vec![1.0; 2]];
        let states = join(&encoded(), &weights, 2, Syntax::WebUi).states.unwrap();
        let scale = 10.0 / 12.0;
        assert!(
            states
                .values
                .iter()
                .zip([1.0 * scale, 4.0 * scale, 3.0 * scale, 4.0 * scale])
                .all(|(g, w)| (g - w).abs() < 1e-6)
        );
        assert_eq!(states.values[4..], [5.0, 6.0, 0.5, 0.25]);
    }

    #[test]
    fn weights_of_comfyui_lead_away_from_an_empty_prompt() {
        let weights = [vec![1.0, 2.0, 1.0, 0.0], vec![1.0; 2]];
        let states = join(&encoded(), &weights, 2, Syntax::ComfyUi).states.unwrap();
        assert_eq!(states.values[..4], [1.0, 3.75, 3.0, 0.25]);
    }
}
