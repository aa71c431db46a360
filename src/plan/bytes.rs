//! How many bytes the weights of a plan take.

use std::ops::Range;

use super::{Plan, Source};
use crate::tensor::{Dtype, Part};

impl Plan {
    /// Bytes of weights that the plan reads, [as stored](Self::weight_dtypes); each counted once, though
    /// keys and values are projected by the same weights for image and text.
    pub fn weight_bytes(&self, stores_bf16: bool) -> u64 {
        let dtypes = self.weight_dtypes(stores_bf16);
        self.weight_bytes_of(0..self.nodes.len(), |w, part| part.elements().len() * dtypes[w].bytes())
    }

    /// The same as they are stored on the host, including the scales of int8 rows.
    pub fn host_bytes(&self) -> u64 {
        self.host_bytes_of(|_| true)
    }

    /// How many of these files have as int8.
    pub fn int8_bytes(&self) -> u64 {
        self.host_bytes_of(|part| part.dtype() == Dtype::I8 && !part.is_copy())
    }

    /// How many of these are [copies](Part::is_copy).
    pub fn copied_bytes(&self) -> u64 {
        self.host_bytes_of(Part::is_copy)
    }

    fn host_bytes_of(&self, counts: impl Fn(&Part) -> bool) -> u64 {
        self.weight_bytes_of(0..self.nodes.len(), |_, part| if counts(part) { part.stored_bytes() } else { 0 })
    }

    /// The same for the span that reads most: what must be in memory at once at least.
    pub fn span_weight_bytes(&self, stores_bf16: bool) -> u64 {
        let dtypes = self.weight_dtypes(stores_bf16);
        let bytes = |w: usize, part: &Part| part.elements().len() * dtypes[w].bytes();
        self.spans.iter().map(|span| self.weight_bytes_of(span.clone(), bytes)).max().unwrap_or(0)
    }

    fn weight_bytes_of(&self, nodes: Range<usize>, bytes: impl Fn(usize, &Part) -> usize) -> u64 {
        let sources = self.nodes[nodes].iter().flat_map(|node| node.inputs.iter().flatten());
        let weights = sources.filter_map(|source| match *source {
            Source::Weight(w, _) => Some(w),
            Source::Slot(_) => None,
        });
        let parts = weights.flat_map(|w| self.weights[w].parts().iter().map(move |part| (w, part)));
        let mut parts: Vec<_> = parts.map(|(w, part)| (part.place(), bytes(w, part) as u64)).collect();
        parts.sort_by(|((a, x), _), ((b, y), _)| (a, x.start).cmp(&(b, y.start)));
        parts.dedup();
        parts.iter().map(|(_, bytes)| bytes).sum()
    }
}
