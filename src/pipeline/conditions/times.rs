//! Time: sinusoidal embeddings of every step's time, and of zero for each extra condition of the configuration.

use crate::net::config::UNetConfig;
use crate::ops::Element;
use crate::pipeline::run::Feed;
use crate::plan::{Recorder, Slot};
use crate::sampler;
use crate::shape::Shape;

/// Embeddings `[1, 1, steps, d]`: of the timestep first, then of the extra conditions (`sca`, `crt`), which the
/// published models were trained with and which are always 0 when sampling.
///
/// `stage` is the stage's index where the request has a pair of settings.
pub(in crate::pipeline) fn record(
    rec: &mut Recorder,
    feed: &mut Feed,
    config: &UNetConfig,
    stage: usize,
    steps: usize,
) -> Vec<Slot> {
    let shape = Shape::matrix(steps, config.timestep_ratio_embedding_dim);
    let count = 1 + config.timestep_conditioning_type.len();
    let slots: Vec<Slot> = (0..count).map(|_| rec.input(shape, Element::F32)).collect();
    for (i, &slot) in slots.iter().enumerate() {
        feed.add(move |job, run| {
            let time = |step: &sampler::Step| if i == 0 { step.r } else { 0.0 };
            let embed = |step: &sampler::Step| sampler::timestep_embedding(time(step), slot.shape.c);
            let rows: Vec<f32> = job.steps(stage).iter().flat_map(embed).collect();
            run.write(slot, &rows)
        });
    }
    slots
}
