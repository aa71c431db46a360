//! An image prompt: one CLIP embedding for each image, or zeros where none is given.

use super::Batch;
use crate::ops::Element;
use crate::pipeline::run::Feed;
use crate::plan::{Recorder, Slot};
use crate::shape::Shape;

/// Image embeddings `[rows, 1, 1, channels]`; the unconditional half of a guided batch has none.
pub(in crate::pipeline) fn record(rec: &mut Recorder, feed: &mut Feed, batch: Batch, channels: usize) -> Slot {
    let slot = rec.input(Shape::new(batch.rows(), 1, 1, channels), Element::F32);
    feed.add(move |job, run| {
        let mut values = vec![0f32; slot.shape.elements()];
        if let Some(given) = job.inputs.image {
            let rows: Vec<usize> = job.images.clone().collect();
            values[..rows.len() * channels].copy_from_slice(&given.images(&rows));
        }
        run.write(slot, &values)
    });
    slot
}
