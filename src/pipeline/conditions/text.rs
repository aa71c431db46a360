//! Text: every image gets the states and the pooled vector of its prompt.

use super::Batch;
use crate::error::Result;
use crate::net::slot;
use crate::ops::{Element, Gather};
use crate::pipeline::run::Feed;
use crate::plan::{Recorder, Slot};
use crate::shape::Shape;

/// Rows of text tensors, chosen for the images of a batch.
pub(in crate::pipeline) struct TextOfImages {
    /// For each row of the network's batch, which text it has, u32 `[1, 1, 1, rows]`.
    indices: Slot,
    rows: usize,
}

impl TextOfImages {
    /// Declares the indices.
    pub fn record(rec: &mut Recorder, feed: &mut Feed, batch: Batch) -> Self {
        let indices = rec.input(Shape::vector(batch.rows()), Element::U32);
        feed.add(move |job, run| run.write(indices, &job.text_of_images(batch.guided)));
        Self { indices, rows: batch.rows() }
    }

    /// `x [texts, h, w, c]` → `[rows, h, w, c]`.
    pub fn of(&self, rec: &mut Recorder, x: Slot) -> Result<Slot> {
        let Shape { n, h, w, c } = x.shape;
        let flat = x.reshape(Shape::new(n, 1, 1, h * w * c));
        let picked = rec.node("texts", Gather, &[slot(flat), slot(self.indices)])?;
        Ok(picked.reshape(Shape::new(self.rows, h, w, c)))
    }
}
