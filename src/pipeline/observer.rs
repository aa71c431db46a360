//! Watching a run: what the caller is told, and how it stops one.

use std::fmt;
use std::ops::{AddAssign, ControlFlow};
use std::time::Duration;

use super::inputs::HostTensor;
use super::run::run_segment;
use crate::backend::{Device, Program, Residency};
use crate::error::Result;
use crate::image::Image;
use crate::plan::{Plan, SegmentId, Slot};

/// A stage of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StageName {
    /// The text encoder.
    Text,
    /// Stage C, its conditions included.
    StageC,
    /// Stage B, its conditions included.
    StageB,
    /// Stage A and the conversion to bytes.
    StageA,
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StageName::Text => "text",
            StageName::StageC => "Stage C",
            StageName::StageB => "Stage B",
            StageName::StageA => "Stage A",
        })
    }
}

/// The memory that a plan takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Images made at once.
    pub images: usize,
    /// Bytes of activations.
    pub activations: u64,
    /// Bytes of weights.
    pub weights: u64,
    /// How many of them files have as int8.
    pub int8: u64,
    /// Bytes of weights that were made in memory from those of the files: int8, or changed by adapters. If weights are
    /// [mapped](Residency::Mapped), they are some of `weights`; otherwise there are these on the host, too.
    pub copies: u64,
    /// Bytes of intermediate results that the observer gets from each batch.
    pub kept: u64,
    /// Bytes that could be had; the largest number where that is not known.
    pub free: u64,
    /// Where the weights are.
    pub residency: Residency,
}

impl Footprint {
    /// The weights of a plan on a device, and nothing else.
    pub(super) fn of_weights(plan: &Plan, device: &Device, residency: Residency) -> Self {
        let (weights, int8) = match device.copies_weights {
            true => (plan.weight_bytes(device.stores_bf16()), 0),
            false => (plan.host_bytes(), plan.int8_bytes()),
        };
        Self { images: 0, activations: 0, weights, int8, copies: plan.copied_bytes(), kept: 0, free: 0, residency }
    }
}

/// What a batch takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// Images made at once.
    pub images: usize,
    /// The stages that run, in order: how many steps they take, and how many floating-point operations together.
    pub stages: Vec<(StageName, usize, u64)>,
}

/// Called while pictures are made. Every method has a default that does nothing, so an observer names only
/// what it cares about; `()` watches nothing, and then nothing is read from the device between steps.
pub trait Observer {
    /// A plan was compiled, and no weight has moved yet.
    fn planned(&mut self, _footprint: &Footprint) {}

    /// A prompt was too long for the text encoder, which does not see `cut`.
    fn truncated(&mut self, _prompt: &str, _cut: &str) {}

    /// A batch begins.
    fn batch(&mut self, _outline: &Outline) {}

    /// A stage begins for a batch; it takes this many steps.
    fn begin(&mut self, _stage: StageName, _steps: usize) {}

    /// A step is done, as far as the host knows: a device may still be working on it. `Break` stops the run,
    /// which then fails with [`Error::Interrupted`](crate::error::Error::Interrupted).
    fn step(&mut self, _step: &mut Step<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// An intermediate result of a batch, where [`Options::keep`](super::Options::keep) asks for them. By name,
    /// as `[n, h, w, c]`: `tokens`, `text_states`, `text_pooled`, `stage_c`, `stage_b`, `image`.
    fn tensor(&mut self, _name: &'static str, _tensor: HostTensor) {}
}

impl Observer for () {}

/// What is run and read to show a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preview {
    pub segment: SegmentId,
    /// Packed pixels, `[n, h, w, 1]`, u32.
    pub pixels: Slot,
}

/// A step that was just done, and what may be read of it.
pub struct Step<'a> {
    /// The stage.
    pub stage: StageName,
    /// Which step, from 0.
    pub index: usize,
    /// Steps of the stage.
    pub steps: usize,
    /// Diffusion time of the step, from 1 (noise) down to 0; 0 in stages that do not sample.
    pub time: f32,
    pub(super) x: Option<Slot>,
    pub(super) preview: Option<Preview>,
    pub(super) plan: &'a Plan,
    pub(super) check_nodes: Option<bool>,
    pub(super) program: &'a mut dyn Program,
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} at {}", self.stage, self.index + 1, self.steps, self.time)
    }
}

impl Step<'_> {
    /// The latents `[n, h, w, c]` after this step, read from the device; `None` in stages that do not sample.
    /// This waits until the device has done the step.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn latents(&mut self) -> Result<Option<HostTensor>> {
        let Some(slot) = self.x else { return Ok(None) };
        let mut values = vec![0f32; slot.shape.elements()];
        self.program.read(slot, bytemuck::cast_slice_mut(&mut values))?;
        Ok(Some(HostTensor { shape: slot.shape, values }))
    }

    /// What each image of the batch is going to be like, as far as this step can tell: a small picture of the clean
    /// latents that the network estimates, with the published previewer 8 × 8 pixels for each of their pixels. `None` in
    /// stages other than Stage C, and without [`Options::preview`](super::Options::preview). Nothing is computed before
    /// this is called; it waits until the device has done the step.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn preview(&mut self) -> Result<Option<Vec<Image>>> {
        let Some(Preview { segment, pixels: slot }) = self.preview else { return Ok(None) };
        run_segment(self.plan, self.program, segment, self.check_nodes)?;
        let mut pixels = vec![0u8; 4 * slot.shape.elements()];
        self.program.read(slot, &mut pixels)?;
        Ok(Some(Image::of_pixels(&pixels, slot.shape.w, slot.shape.h)))
    }
}

/// Time spent in each stage, over all images.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// Recording and compiling plans.
    pub plan: Duration,
    /// The text encoder.
    pub text: Duration,
    /// Stage C, its conditions included.
    pub stage_c: Duration,
    /// Stage B, its conditions included.
    pub stage_b: Duration,
    /// Stage A and conversion to bytes.
    pub stage_a: Duration,
}

impl AddAssign for Times {
    fn add_assign(&mut self, more: Self) {
        self.plan += more.plan;
        self.text += more.text;
        self.stage_c += more.stage_c;
        self.stage_b += more.stage_b;
        self.stage_a += more.stage_a;
    }
}

impl Times {
    /// Adds to the time of a stage.
    pub(super) fn add(&mut self, stage: StageName, time: Duration) {
        *match stage {
            StageName::Text => &mut self.text,
            StageName::StageC => &mut self.stage_c,
            StageName::StageB => &mut self.stage_b,
            StageName::StageA => &mut self.stage_a,
        } += time;
    }
}
