//! Image prompts: CLIP embeddings for each image, or one of zeros where none is given.

use super::Batch;
use crate::ops::Element;
use crate::pipeline::run::Feed;
use crate::plan::{Recorder, Slot};
use crate::shape::Shape;

/// Embeddings of `prompts` pictures, `[rows, 1, prompts, channels]`; the unconditional half of a guided batch has none.
pub(in crate::pipeline) fn record(
    rec: &mut Recorder,
    feed: &mut Feed,
    batch: Batch,
    prompts: usize,
    channels: usize,
) -> Slot {
    let slot = rec.input(Shape::new(batch.rows(), 1, prompts, channels), Element::F32);
    feed.add(move |job, run| {
        let mut values = vec![0f32; slot.shape.elements()];
        if let Some(given) = job.inputs.image {
            let last = given.shape.n - 1;
            let rows: Vec<usize> = job.images.clone().map(|image| image.min(last)).collect();
            let given = given.images(&rows);
            values[..given.len()].copy_from_slice(&given);
        }
        run.write(slot, &values)
    });
    slot
}
