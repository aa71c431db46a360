//! The stages in their order, recorded as one plan.
//!
//! | segment       | runs                | holds                                              |
//! |---------------|---------------------|----------------------------------------------------|
//! | `text`        | once per batch      | the CLIP text tower                                |
//! | `condition_c` | once per batch      | Stage C's context keys and values, timestep tables |
//! | `step_c`      | per step of Stage C | the network, guidance, the sampler's update        |
//! | `preview`     | when it is asked for | the previewer, on the latents that a step of Stage C estimates |
//! | `check_c`     | once per batch      | a count of latents that are not finite             |
//! | `condition_b`, `step_b`, `check_b` | as for Stage C | the same for Stage B, conditioned on Stage C's latents |
//! | `decode`      | once per batch      | Stage A, conversion to bytes                       |

use std::sync::Arc;

use super::key::{PlanKey, Until};
use super::observer::{Outline, StageName};
use super::options::Options;
use super::run::{Job, Run};
use super::stage_a::StageA;
use super::stage_b::StageB;
use super::stage_c::StageC;
use super::text::Text;
use crate::backend::{Device, Kind};
use crate::error::Result;
use crate::model::Model;
use crate::plan::{Plan, Recorder, SegmentId};
use crate::request::Request;

/// A recorded stage. It knows its slots: it fills them, runs its segments and reads its results.
pub(crate) trait Stage: Send {
    /// Which stage it is.
    fn name(&self) -> StageName;

    /// The steps that it takes for a batch; 0 if its result is given.
    fn steps(&self, job: &Job<'_>) -> usize;

    /// The segments that it runs for a batch, each with how often.
    fn segments(&self, job: &Job<'_>) -> Vec<(SegmentId, usize)>;

    /// Makes its part of the batch.
    fn run(&self, run: &mut Run<'_>) -> Result<()>;

    /// Bytes of the host's memory that its inputs are filled from and its results are read into, where noise is
    /// drawn for `total` images at once.
    fn host_bytes(&self, _total: usize) -> u64 {
        0
    }
}

/// A plan, and the stages that run its segments, in order.
pub(crate) struct Recorded {
    pub plan: Arc<Plan>,
    pub stages: Vec<Box<dyn Stage>>,
}

/// The plan of a whole picture for all images of a request at once, to measure its parts.
///
/// # Errors
/// If the model's networks do not fit together.
pub fn plan(model: &Model, request: &Request) -> Result<Arc<Plan>> {
    let key = PlanKey::of(&request.last_pass(), 0..request.images(), &Options::default(), Until::Pictures);
    record(model, &key).map(|recorded| recorded.plan)
}

/// Records what `key` asks for. A stage takes from those before it the slots that it reads, and nothing else.
pub(crate) fn record(model: &Model, key: &PlanKey) -> Result<Recorded> {
    let mut rec = Recorder::new();
    let mut stages: Vec<Box<dyn Stage>> = Vec::new();
    let text = Text::record(&mut rec, model, key)?;
    let states = text.slots();
    stages.push(Box::new(text));
    if key.until != Until::Text {
        let stage_c = StageC::record(&mut rec, model, key, states)?;
        let latents = stage_c.latents();
        stages.push(Box::new(stage_c));
        if key.until == Until::Pictures {
            let stage_b = StageB::record(&mut rec, model, key, states, latents)?;
            let latents = stage_b.latents();
            stages.push(Box::new(stage_b));
            stages.push(Box::new(StageA::record(&mut rec, model, key, latents)?));
        }
    }
    Ok(Recorded { plan: Arc::new(rec.finish()), stages })
}

/// Bytes of the intermediate results of a batch that are handed to the observer, see [`Run::keep`].
pub(crate) fn kept_bytes(model: &Model, key: &PlanKey) -> u64 {
    let text = &model.text.1;
    let mut of_image = 0;
    if key.text_given.is_none() {
        of_image += text.max_position_embeddings * (1 + text.hidden_size) + text.projection_dim;
    }
    if key.until != Until::Text && key.stage_c_given.is_none() {
        let (h, w) = key.sizes().c;
        of_image += h * w * model.stage_c.1.out_channels;
    }
    if key.until == Until::Pictures {
        let (h, w) = key.sizes().b;
        of_image += h * w * model.stage_b.1.out_channels + key.height * key.width * 3;
    }
    if key.keep { 4 * (of_image * key.images) as u64 } else { 0 }
}

impl Recorded {
    /// What a batch takes.
    pub fn outline(&self, job: &Job<'_>) -> Outline {
        let flops = |(segment, times): &(SegmentId, usize)| {
            let nodes = &self.plan.nodes[self.plan.nodes_of(*segment)];
            *times as u64 * nodes.iter().map(|node| self.plan.cost(node, false).flops).sum::<u64>()
        };
        let stages = self.stages.iter().map(|stage| (stage.name(), stage.steps(job), stage.segments(job)));
        let stages = stages.filter(|(_, steps, _)| *steps > 0);
        let stages = stages.map(|(name, steps, segments)| (name, steps, segments.iter().map(flops).sum()));
        Outline { images: job.images.len(), stages: stages.collect() }
    }

    /// The least memory that it takes with `device`, where noise is drawn for `total` images at once: activations,
    /// and where weights are copied, those of one span.
    pub fn least_bytes(&self, total: usize, device: &Device) -> u64 {
        let weights = if device.copies_weights { self.plan.span_weight_bytes(device.stores_bf16()) } else { 0 };
        self.activation_bytes(total, device) + weights
    }

    /// Memory of the device for activations. On the CPU that is the host's, which also holds what the host fills
    /// them with and reads from them: a batch's noise, one draw for `total` images, pixels.
    pub fn activation_bytes(&self, total: usize, device: &Device) -> u64 {
        let host = match device.kind {
            Kind::Cpu => self.stages.iter().map(|stage| stage.host_bytes(total)).max().unwrap_or(0),
            _ => 0,
        };
        self.plan.arena_bytes() + host
    }
}
