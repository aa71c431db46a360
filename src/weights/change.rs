//! Changes that adapters make to weights: of low rank, which can be computed beside the weight when it is used, and
//! others, for which a changed copy is made.

use std::sync::OnceLock;

use rayon::prelude::*;

use crate::tensor::{Dtype, Part, Weight};

/// A change of low rank: `up·down` is added to a weight of as many elements, seen as `[o, k]`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[r, k]`.
    pub down: Weight,
    /// `[o, r]`, with the strength in it.
    pub up: Weight,
}

impl LowRank {
    /// The changes of several layers with `outputs` outputs each and the same input, as the two factors of one change of
    /// the stacked layers: `[r, k]` and `[outputs·layers, r]`, where `r` is the sum of all ranks. `None` if there are none.
    /// A first factor that several layers share counts once.
    pub fn beside(layers: &[&[LowRank]], outputs: usize) -> Option<[Weight; 2]> {
        if let [[one]] = layers {
            return Some([one.down.clone(), one.up.clone()]);
        }
        let all = || layers.iter().enumerate().flat_map(|(i, changes)| changes.iter().map(move |change| (i, change)));
        let (mut downs, mut rank) = (Vec::<(&Weight, usize)>::new(), 0);
        for (_, LowRank { down, .. }) in all() {
            if !downs.iter().any(|(known, _)| known.identity() == down.identity()) {
                downs.push((down, rank));
                rank += down.dims[0];
            }
        }
        let (first, _) = downs.first()?;
        let mut up = vec![0f32; outputs * layers.len() * rank];
        for (layer, change) in all() {
            let (down, column) = downs.iter().find(|(down, _)| down.identity() == change.down.identity())?;
            let own = down.dims[0];
            for (row, values) in change.up.to_f32().chunks(own).enumerate() {
                let place = &mut up[(layer * outputs + row) * rank + column..][..own];
                place.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
        let up = Weight::from_f32(format!("{}, second factors", first.name), &[outputs * layers.len(), rank], up);
        let down = match downs[..] {
            [(one, _)] => one.clone(),
            _ => {
                let values = downs.iter().flat_map(|(down, _)| down.to_f32()).collect();
                Weight::from_f32(first.name.clone(), &[rank, first.dims[1]], values)
            }
        };
        Some([down, up])
    }

    /// Adds `up·down` to `weight`, which has as many elements in the same order.
    fn add_to(&self, weight: &mut [f32]) {
        let (rank, k) = (self.down.dims[0], self.down.dims[1]);
        let (up, down) = (self.up.to_f32(), self.down.to_f32());
        weight.par_chunks_mut(k).zip(up.par_chunks(rank)).for_each(|(row, up)| {
            for (factor, down) in up.iter().zip(down.chunks(k)) {
                row.iter_mut().zip(down).for_each(|(w, d)| *w += factor * d);
            }
        });
    }
}

/// A change for which the weight is copied.
#[derive(Debug, Clone)]
pub enum Copied {
    /// Direction and magnitude apart (DoRA): with `V = W + up·down`, the weight moves by `strength` of the way to
    /// `m·V/‖V‖`. Norms are those of the original weight with this change alone.
    Decomposed {
        /// The change of direction, without `strength`.
        direction: LowRank,
        /// `m`, one for each output, or for each input channel.
        magnitude: Vec<f32>,
        /// Whether it is for each output.
        of_outputs: bool,
        /// How far the weight moves, 1 is all the way.
        strength: f32,
    },
    /// Added to single rows: their indices, and as many rows of values.
    Rows(Vec<usize>, Vec<f32>),
}

/// Everything that changes one weight.
#[derive(Debug, Default)]
pub struct Changes {
    /// What may be computed beside the weight.
    pub low_rank: Vec<LowRank>,
    /// What needs a copy.
    pub copied: Vec<Copied>,
    /// The weight with what needs a copy, made on first use.
    copy: OnceLock<Weight>,
    /// The weight with all changes, made on first use.
    all: OnceLock<Weight>,
}

impl Changes {
    /// `weight` with the changes that need a copy.
    pub fn copy(&self, weight: &Weight) -> Weight {
        self.copy.get_or_init(|| self.copied_into(weight)).clone()
    }

    /// `weight` with all changes.
    pub fn all(&self, weight: &Weight) -> Weight {
        self.all.get_or_init(|| self.added_to(self.copy(weight))).clone()
    }

    /// `weight` with all changes, of which nothing is kept.
    pub fn made_anew(&self, weight: &Weight) -> Weight {
        self.added_to(self.copied_into(weight))
    }

    fn copied_into(&self, weight: &Weight) -> Weight {
        self.copied.iter().fold(weight.clone(), |changed, change| change.apply(&changed, weight))
    }

    fn added_to(&self, weight: Weight) -> Weight {
        if self.low_rank.is_empty() {
            return weight;
        }
        let mut values = weight.to_f32();
        self.low_rank.iter().for_each(|change| change.add_to(&mut values));
        Weight::from_f32(weight.name.clone(), &weight.dims, values)
    }
}

impl Copied {
    /// `weight`, which `original` has become by earlier changes, with this one.
    fn apply(&self, weight: &Weight, original: &Weight) -> Weight {
        match self {
            Self::Decomposed { direction, magnitude, of_outputs, strength } => {
                let before = original.to_f32();
                let mut moved = before.clone();
                direction.add_to(&mut moved);
                scale_to(&mut moved, magnitude, *of_outputs, &original.dims);
                let mut values = weight.to_f32();
                let ways = moved.iter().zip(&before).map(|(to, from)| to - from);
                values.iter_mut().zip(ways).for_each(|(w, way)| *w += strength * way);
                Weight::from_f32(weight.name.clone(), &weight.dims, values)
            }
            Self::Rows(rows, values) => with_rows(weight, rows, values),
        }
    }
}

/// Scales every row, or every input channel, of a weight `[outputs, inputs, …]` to its magnitude. One of zeros
/// stays.
fn scale_to(values: &mut [f32], magnitude: &[f32], of_outputs: bool, dims: &[usize]) {
    let row: usize = dims[1..].iter().product();
    let channel = row / dims.get(1).copied().unwrap_or(1).max(1);
    let index = |i: usize| if of_outputs { i / row } else { i % row / channel };
    let mut squares = vec![0f64; magnitude.len()];
    for (i, v) in values.iter().enumerate() {
        squares[index(i)] += f64::from(*v) * f64::from(*v);
    }
    let factors: Vec<f32> = magnitude
        .iter()
        .zip(squares)
        .map(|(m, s)| if s > 0.0 { (f64::from(*m) / s.sqrt()) as f32 } else { 1.0 })
        .collect();
    values.iter_mut().enumerate().for_each(|(i, v)| *v *= factors[index(i)]);
}

/// `weight` with `values` added to its rows of these indices. All other rows stay where they are.
fn with_rows(weight: &Weight, rows: &[usize], values: &[f32]) -> Weight {
    let len: usize = weight.dims[1..].iter().product();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| rows[i]);
    let mut parts = Vec::new();
    let mut done = 0;
    for group in order.chunk_by(|&a, &b| rows[a] == rows[b]) {
        let row = rows[group[0]];
        let mut sum = Vec::with_capacity(len);
        weight.row(row, len).extend_f32(&mut sum);
        for &i in group {
            sum.iter_mut().zip(&values[i * len..]).for_each(|(w, v)| *w += v);
        }
        parts.extend(range_of(weight, done..row, len));
        parts.push(Part::new(std::sync::Arc::new(sum), 0..4 * len, Dtype::F32));
        done = row + 1;
    }
    parts.extend(range_of(weight, done..weight.dims[0], len));
    Weight::new(weight.name.clone(), weight.dims.clone(), parts)
}

/// The ranges of a weight's parts that hold these rows.
fn range_of(weight: &Weight, rows: std::ops::Range<usize>, len: usize) -> Vec<Part> {
    let mut first = 0;
    let part = |part: &Part| {
        let here = first..first + part.elements().len() / len;
        first = here.end;
        let (start, end) = (rows.start.max(here.start), rows.end.min(here.end));
        (start < end).then(|| part.rows(start - here.start..end - here.start, len))
    };
    weight.parts().iter().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    fn weight(dims: &[usize], f: impl Fn(usize) -> f32) -> Weight {
        Weight::from_f32("w", dims, (0..dims.iter().product()).map(f).collect())
    }

    #[test]
    fn low_rank_changes_add_up_in_a_copy() {
        let base = weight(&[2, 3], |i| i as f32);
        let change = |s: f32| LowRank {
            down: weight(&[1, 3], |i| 1.0 + i as f32),
            up: weight(&[2, 1], move |i| s * (1.0 + i as f32)),
        };
        let changes = Changes { low_rank: vec![change(1.0), change(0.5)], ..Changes::default() };
        assert_eq!(changes.all(&base).to_f32(), [1.5, 4.0, 6.5, 6.0, 10.0, 14.0]);
        // What is not in need of a copy leaves the weight where it lies.
        assert_eq!(changes.copy(&base).identity(), base.identity());
    }

    #[test]
    fn changes_of_stacked_layers_stay_apart() {
        let change = |r: usize, up: f32| LowRank {
            down: weight(&[r, 2], |i| i as f32),
            up: weight(&[1, r], move |i| up + i as f32),
        };
        let (q, v) = (change(1, 5.0), change(2, 7.0));
        let [down, up] = LowRank::beside(&[from_ref(&q), &[], from_ref(&v)], 1).unwrap();
        assert_eq!(down.to_f32(), [0.0, 1.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(up.to_f32(), [5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0]);
        assert!(LowRank::beside(&[&[], &[]], 1).is_none());
        let shared = LowRank { up: weight(&[1, 1], |_| 9.0), ..q.clone() };
        let [down, up] = LowRank::beside(&[from_ref(&q), from_ref(&shared)], 1).unwrap();
        assert_eq!((down.identity(), up.to_f32()), (q.down.identity(), vec![5.0, 9.0]));
        let [_, alone] = LowRank::beside(&[from_ref(&q)], 1).unwrap();
        assert_eq!(alone.identity(), q.up.identity());
    }

    #[test]
    fn decomposed_changes_have_the_magnitude_that_is_given() {
        let base = weight(&[2, 2], |i| [3.0, 4.0, 0.0, 5.0][i]);
        let nothing = LowRank { down: weight(&[1, 2], |_| 0.0), up: weight(&[2, 1], |_| 1.0) };
        let change = |of_outputs, strength| {
            let magnitude = vec![10.0, 20.0];
            let copied = vec![Copied::Decomposed { direction: nothing.clone(), magnitude, of_outputs, strength }];
            Changes { copied, ..Changes::default() }.copy(&base).to_f32()
        };
        assert_eq!(change(true, 1.0), [6.0, 8.0, 0.0, 20.0]);
        assert_eq!(change(true, 0.5), [4.5, 6.0, 0.0, 12.5]);
        let columns = change(false, 1.0);
        let norm = (16.0f32 + 25.0).sqrt();
        assert!(
            columns.iter().zip([10.0, 80.0 / norm, 0.0, 100.0 / norm]).all(|(got, want)| (got - want).abs() < 1e-5)
        );
    }

    #[test]
    fn rows_are_changed_where_they_lie() {
        let base = Weight::stack(&[weight(&[2, 2], |i| i as f32), weight(&[3, 2], |i| 10.0 + i as f32)]);
        let changes = Changes {
            copied: vec![Copied::Rows(vec![3, 1, 3], vec![1.0, 2.0, 100.0, 200.0, 3.0, 4.0])],
            ..Changes::default()
        };
        let changed = changes.copy(&base);
        assert_eq!(changed.to_f32(), [0.0, 1.0, 102.0, 203.0, 10.0, 11.0, 16.0, 19.0, 14.0, 15.0]);
        let kept = changed.parts().iter().filter(|p| base.parts().iter().any(|b| b.place().0 == p.place().0)).count();
        assert_eq!((changed.parts().len(), kept), (5, 3));
        let ends = Copied::Rows(vec![0, 4], vec![0.0; 4]).apply(&base, &base);
        assert_eq!(ends.to_f32(), base.to_f32());
    }
}
