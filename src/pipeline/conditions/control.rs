//! ControlNets: what they add to the input of Stage C's residual blocks, the same for all images and steps but for a factor.

use super::Batch;
use crate::error::Result;
use crate::net::slot;
use crate::net::unet::Addition;
use crate::ops::{Element, Gather};
use crate::pipeline::run::Feed;
use crate::plan::{Recorder, Slot};
use crate::shape::Shape;

/// What control number `control` adds, `[rows, h, w, c]`, to each of these blocks, given with the shape `[1, h, w, c]` of
/// their input. The unconditional half of a guided batch gets the same.
pub(in crate::pipeline) fn record(
    rec: &mut Recorder,
    feed: &mut Feed,
    batch: Batch,
    control: usize,
    blocks: &[(String, Shape)],
) -> Result<Vec<Addition>> {
    let rows = rec.input(Shape::vector(batch.rows()), Element::U32);
    feed.add(move |_, run| run.write(rows, &vec![0u32; rows.shape.c]));
    let one = |(i, (block, shape)): (usize, &(String, Shape))| {
        let given = rec.input(Shape::vector(shape.elements()), Element::F32);
        feed.add(move |job, run| run.write(given, &job.inputs.control[control].additions.0[i].1.values));
        let all = rec.node("control", Gather, &[slot(given), slot(rows)])?;
        Ok(Addition { block: block.clone(), control, values: all.reshape(Shape { n: batch.rows(), ..*shape }) })
    };
    blocks.iter().enumerate().map(one).collect()
}

/// The factors with which an addition is added at every step, `[1, 1, steps, 4]`: 1 for the input, the strength for the
/// addition, 0 outside of its range.
pub(in crate::pipeline) fn factors(rec: &mut Recorder, feed: &mut Feed, control: usize, steps: usize) -> Slot {
    let table = rec.input(Shape::matrix(steps, 4), Element::F32);
    feed.add(move |job, run| {
        let given = &job.inputs.control[control];
        let rows: Vec<f32> = (0..steps).flat_map(|step| [1.0, given.strength_at(step, steps), 0.0, 0.0]).collect();
        run.write(table, &rows)
    });
    table
}
