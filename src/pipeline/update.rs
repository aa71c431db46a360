//! The end of a sampling step: guidance, and the sampler's update of the latents.

use super::key::PlanKey;
use super::run::Feed;
use crate::error::Result;
use crate::net::slot;
use crate::ops::{Denoise, Element, Guide, GuideProjected};
use crate::plan::{Recorder, Slot};
use crate::sampler::Step;
use crate::shape::Shape;

/// What the update of a stage's latents reads besides prediction and noise.
pub(super) struct Update {
    /// The latents `[n, h, w, c]`.
    x: Slot,
    /// The current step, u32 `[1, 1, 1, 1]`.
    counter: Slot,
    /// Factors of the update at every step, `[1, 1, steps, 4]`.
    factors: Slot,
    /// Guidance at every step, `[1, 1, steps, 3]`.
    guidance: Option<Slot>,
    estimate: Option<Estimate>,
}

/// The estimate of the clean latents at the latest step, for samplers of second order and for previews.
#[derive(Clone, Copy)]
struct Estimate {
    /// That estimate, `[n, h, w, c]`.
    latest: Slot,
    /// Factors that make a step's estimate from latents and prediction, `[1, 1, steps, 4]`.
    clean: Slot,
    /// Factors that replace the estimate before by this step's, `[1, 1, steps, 4]`.
    replace: Slot,
    /// Whether the sampler reads it.
    is_history: bool,
}

impl Update {
    /// Declares its inputs, in a loop of steps. The estimate of the clean latents is kept where the sampler needs it, or
    /// where it is to be `previewed`.
    pub fn declare(
        rec: &mut Recorder,
        feed: &mut Feed,
        key: &PlanKey,
        stage: usize,
        [x, counter]: [Slot; 2],
        previewed: bool,
    ) -> Self {
        let steps = key.steps[stage];
        let factors = table(rec, feed, stage, steps, |step| [step.a, step.b, step.h, step.sigma]);
        let guidance = key.guidance[stage].some.then(|| {
            let guidance = rec.input(Shape::matrix(steps, 3), Element::F32);
            feed.add(move |job, run| {
                let (g, method) = match stage {
                    0 => (job.request.guidance.0, &job.request.method.0),
                    _ => (job.request.guidance.1, &job.request.method.1),
                };
                run.write(guidance, &[g, method.rescale, method.parallel].repeat(steps))
            });
            guidance
        });
        let is_history = key.needs[stage].history;
        let estimate = (is_history || previewed).then(|| {
            let latest = rec.input(x.shape, Element::F32);
            feed.add(move |_, run| run.write(latest, &vec![0f32; x.shape.elements()]));
            let clean = table(rec, feed, stage, steps, |step| [step.clean[0], step.clean[1], 0.0, 0.0]);
            let replace = table(rec, feed, stage, steps, |_| [0.0, 1.0, 0.0, 0.0]);
            Estimate { latest, clean, replace, is_history }
        });
        Self { x, counter, factors, guidance, estimate }
    }

    /// The estimate of the clean latents at the latest step, `[n, h, w, c]`, where it is kept.
    pub fn estimate(&self) -> Option<Slot> {
        self.estimate.map(|estimate| estimate.latest)
    }

    /// Records guidance: `eps [2n, h, w, c]` of the network → `[n, h, w, c]`.
    pub fn guide(&self, rec: &mut Recorder, eps: Slot, is_projected: bool) -> Result<Slot> {
        let guidance = self.guidance.expect("a guided stage has a table of guidance");
        let inputs = [slot(eps), slot(guidance), slot(self.counter)];
        match is_projected {
            true => rec.node("guidance", GuideProjected, &inputs),
            false => rec.node("guidance", Guide, &inputs),
        }
    }

    /// Records the update of the latents by the prediction `eps` and the step's noise.
    pub fn record(&self, rec: &mut Recorder, eps: Slot, noise: Option<Slot>) -> Result<()> {
        let Self { x, counter, .. } = *self;
        let noise = noise.and_then(slot);
        let combine = |x, eps, history: Option<Slot>, noise, factors| {
            [slot(x), slot(eps), history.and_then(slot), noise, slot(factors), slot(counter)]
        };
        let Some(Estimate { latest, clean, replace, is_history }) = self.estimate else {
            return rec.update("sampler", Denoise, &combine(x, eps, None, noise, self.factors), x);
        };
        let now = rec.node("estimate", Denoise, &combine(x, eps, None, None, clean))?;
        rec.update("sampler", Denoise, &combine(x, eps, is_history.then_some(latest), noise, self.factors), x)?;
        rec.update("history", Denoise, &combine(latest, now, None, None, replace), latest)
    }
}

/// Four factors of every step, `[1, 1, steps, 4]`, which the host writes.
fn table(rec: &mut Recorder, feed: &mut Feed, stage: usize, steps: usize, row: fn(&Step) -> [f32; 4]) -> Slot {
    let table = rec.input(Shape::matrix(steps, 4), Element::F32);
    feed.add(move |job, run| {
        let rows: Vec<f32> = job.steps(stage).iter().flat_map(row).collect();
        run.write(table, &rows)
    });
    table
}
