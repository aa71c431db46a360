//! Stage B: Stage C's latents to those of Stage A, a quarter of the picture's size.

use super::conditions::text::TextOfImages;
use super::conditions::{absent, effnet};
use super::key::PlanKey;
use super::observer::StageName;
use super::run::{Job, Run};
use super::sampling::{Kind, Sampling};
use super::stages::Stage;
use super::text::TextSlots;
use crate::error::Result;
use crate::model::Model;
use crate::net::unet::Conditions;
use crate::noise::NoiseStream;
use crate::plan::{Recorder, SegmentId, Slot};
use crate::shape::Shape;

pub(super) const KIND: Kind = Kind {
    stage: StageName::StageB,
    index: 1,
    stream: NoiseStream::StageB,
    segments: ["condition_b", "check_b"],
    steps: [["step_b", "reuse_b"], ["unguided_b", "unguided_reuse_b"]],
};

/// Stage B.
pub(crate) struct StageB(Sampling);

impl StageB {
    /// Records the sampler, conditioned on `stage_c [n, h, w, 16]`.
    pub fn record(rec: &mut Recorder, model: &Model, key: &PlanKey, text: TextSlots, stage_c: Slot) -> Result<Self> {
        let config = &model.stage_b.1;
        let size = key.sizes().b;
        Sampling::record(rec, &model.stage_b, key, &KIND, size, None, |rec, feed, batch| {
            let text_of = TextOfImages::record(rec, feed, batch);
            Ok(Conditions {
                times: Vec::new(),
                pooled: text_of.of(rec, text.pooled)?,
                text: None,
                image: None,
                effnet: config.effnet_in_channels.map(|_| effnet::record(rec, feed, batch, stage_c)).transpose()?,
                additions: Vec::new(),
                pixels: config.pixel_mapper_in_channels.map(|c| absent::record(rec, feed, Shape::vector(c))),
            })
        })
        .map(Self)
    }

    /// Its result, `[n, h, w, 4]`.
    pub fn latents(&self) -> Slot {
        self.0.x
    }
}

impl Stage for StageB {
    fn name(&self) -> StageName {
        KIND.stage
    }

    fn steps(&self, job: &Job<'_>) -> usize {
        self.0.steps(job)
    }

    fn segments(&self, job: &Job<'_>) -> Vec<(SegmentId, usize)> {
        self.0.segments(job)
    }

    fn run(&self, run: &mut Run<'_>) -> Result<()> {
        self.0.run(run)?;
        if run.keep {
            let latents = run.read(self.0.x)?;
            run.keep("stage_b", latents);
        }
        Ok(())
    }

    fn host_bytes(&self, total: usize) -> u64 {
        self.0.host_bytes(total)
    }
}
