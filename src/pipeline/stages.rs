//! The stages in their order, recorded as one plan.
//!
//! | segment       | runs                | holds                                              |
//! |---------------|---------------------|----------------------------------------------------|
//! | `text`        | once per batch      | the CLIP text tower                                |
//! | `condition_c` | once per batch      | Stage C's context keys and values, timestep tables |
//! | `step_c`      | per step of Stage C | the network, guidance, the sampler's update        |
//! | `check_c`     | once per batch      | a count of latents that are not finite             |
//! | `condition_b`, `step_b`, `check_b` | as for Stage C | the same for Stage B, conditioned on Stage C's latents |
//! | `decode`      | once per batch      | Stage A, conversion to bytes                       |

use std::sync::Arc;

use super::key::{PlanKey, Until};
use super::observer::StageName;
use super::run::{Job, Run};
use super::stage_a::StageA;
use super::stage_b::StageB;
use super::stage_c::StageC;
use super::text::Text;
use crate::backend::{Device, Kind};
use crate::error::Result;
use crate::model::Model;
use crate::plan::{Plan, Recorder};

/// A recorded stage. It knows its slots: it fills them, runs its segments and reads its results.
pub(crate) trait Stage: Send {
    /// Which stage it is.
    fn name(&self) -> StageName;

    /// The steps that it takes for a batch; 0 if its result is given.
    fn steps(&self, job: &Job<'_>) -> usize;

    /// Makes its part of the batch.
    fn run(&self, run: &mut Run<'_>) -> Result<()>;

    /// Bytes of the host's memory that its inputs are filled from and its results are read into, in a run of
    /// `total` images.
    fn host_bytes(&self, _total: usize) -> u64 {
        0
    }
}

/// A plan, and the stages that run its segments, in order.
pub(crate) struct Recorded {
    pub plan: Arc<Plan>,
    pub stages: Vec<Box<dyn Stage>>,
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

impl Recorded {
    /// The least memory that it takes with `device`, in a run of `total` images: activations, and where weights
    /// are copied, those of one span.
    pub fn least_bytes(&self, total: usize, device: &Device) -> u64 {
        let weights = if device.copies_weights { self.plan.span_weight_bytes(device.stores_bf16()) } else { 0 };
        self.activation_bytes(total, device) + weights
    }

    /// Memory of the device for activations. On the CPU that is the host's, which also holds what the host fills
    /// them with and reads from them: a batch's noise, one draw for all `total` images of the run, pixels.
    pub fn activation_bytes(&self, total: usize, device: &Device) -> u64 {
        let host = match device.kind {
            Kind::Cpu => self.stages.iter().map(|stage| stage.host_bytes(total)).max().unwrap_or(0),
            _ => 0,
        };
        self.plan.arena_bytes() + host
    }
}
