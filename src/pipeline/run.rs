//! A program while it makes one batch, and the inputs that the host writes for it.

use std::ops::{ControlFlow, Range};

use super::beginning::Begun;
use super::inputs::{HostTensor, Inputs};
use super::observer::{Observer, Preview, StageName, Step};
use crate::backend::Program;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::model::Model;
use crate::plan::{Plan, SegmentId, Slot};
use crate::request::Request;
use crate::sampler;
use crate::tokenizer::Encoding;
use crate::weights::Checkpoint;

/// One batch: `images` of all those of the request, and everything that the host knows of them.
pub(crate) struct Job<'a> {
    pub model: &'a Model,
    pub request: &'a Request,
    pub inputs: &'a Inputs<'a>,
    /// What Stage C begins with besides noise.
    pub begun: Option<&'a Begun<'a>>,
    /// The tokens of every prompt, then of the negative one. Empty where text states are given.
    pub tokens: &'a [Encoding],
    /// Which images of the request are made.
    pub images: Range<usize>,
    /// Different texts in the batch, the negative one included.
    pub texts: usize,
}

impl Job<'_> {
    /// The prompt of an image of the request.
    pub fn prompt_of(&self, image: usize) -> usize {
        image / self.request.count as usize
    }

    /// The sampling steps of a stage, by its index where the request has a pair of settings.
    pub fn steps(&self, stage: usize) -> Vec<sampler::Step> {
        let Request { method, steps, .. } = self.request;
        match stage {
            0 => sampler::steps_from(&method.0, steps.0, self.first_step(stage)),
            _ => sampler::steps(&method.1, steps.1),
        }
    }

    /// The first of these steps that is taken: where Stage C begins with latents, that of their strength.
    pub fn first_step(&self, stage: usize) -> usize {
        let Some(begun) = self.begun.filter(|_| stage == 0) else { return 0 };
        sampler::first_step(&self.request.method.0, self.request.steps.0, begun.strength)
    }

    /// Indices of the batch's texts among all prompts of the request, which the negative one follows.
    pub fn text_indices(&self) -> Vec<usize> {
        let prompts = self.prompt_of(self.images.start)..self.prompt_of(self.images.end - 1) + 1;
        let negative = (self.texts > prompts.len()).then_some(self.request.prompts.len());
        prompts.chain(negative).collect()
    }

    /// For each image of the batch, which of the batch's texts it has; where `guided`, followed by the
    /// negative text once for each image.
    pub fn text_of_images(&self, guided: bool) -> Vec<u32> {
        let first = self.prompt_of(self.images.start);
        let positive = self.images.clone().map(|image| (self.prompt_of(image) - first) as u32);
        let negative = std::iter::repeat_n(self.texts as u32 - 1, if guided { self.images.len() } else { 0 });
        positive.chain(negative).collect()
    }
}

type Fill = Box<dyn Fn(&Job<'_>, &mut Run<'_>) -> Result<()> + Send>;

/// What the host writes before a segment runs. Whoever declares an input slot adds here how it is filled, so
/// that both stand in one place.
#[derive(Default)]
pub(crate) struct Feed(Vec<Fill>);

impl Feed {
    /// Adds a function that writes input slots for a batch.
    pub fn add(&mut self, fill: impl Fn(&Job<'_>, &mut Run<'_>) -> Result<()> + Send + 'static) {
        self.0.push(Box::new(fill));
    }

    /// Writes all inputs.
    pub fn write(&self, run: &mut Run<'_>) -> Result<()> {
        let job = run.job;
        self.0.iter().try_for_each(|fill| fill(job, run))
    }
}

/// A program while it makes one batch.
pub(crate) struct Run<'a> {
    pub plan: &'a Plan,
    pub program: &'a mut dyn Program,
    pub job: &'a Job<'a>,
    pub observer: &'a mut dyn Observer,
    /// Whether nodes are checked, and if so whether the device may round.
    pub check_nodes: Option<bool>,
    /// Whether intermediate results are handed to the observer.
    pub keep: bool,
    /// What has been made so far.
    pub results: Results,
}

/// Runs a segment of a plan, with every node compared with its definition if `check_nodes` says whether the device may
/// round.
pub(super) fn run_segment(
    plan: &Plan,
    program: &mut dyn Program,
    segment: SegmentId,
    check_nodes: Option<bool>,
) -> Result<()> {
    let nodes = plan.nodes_of(segment);
    match check_nodes {
        Some(rounds) => crate::check::run(plan, program, nodes, rounds),
        None => program.run(nodes),
    }
}

/// What a batch yields.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Finished pictures.
    pub images: Vec<Image>,
    /// Stage C's latents `[n, h, w, c]`, if they are the last result.
    pub stage_c: Option<HostTensor>,
    /// Text states and pooled text of the batch's texts, if they are the last result.
    pub text: Option<[HostTensor; 2]>,
}

impl Run<'_> {
    /// Fills a slot.
    pub fn write<T: bytemuck::NoUninit>(&mut self, slot: Slot, values: &[T]) -> Result<()> {
        self.program.write(slot, bytemuck::cast_slice(values))
    }

    /// Copies a slot of real numbers to the host.
    pub fn read(&mut self, slot: Slot) -> Result<HostTensor> {
        let mut values = vec![0f32; slot.shape.elements()];
        self.program.read(slot, bytemuck::cast_slice_mut(&mut values))?;
        Ok(HostTensor { shape: slot.shape, values })
    }

    /// Copies a counter to the host. This waits until the device has done everything that it was given, so
    /// a stage that ends with it has a time of its own.
    pub fn read_count(&mut self, slot: Slot) -> Result<u32> {
        let mut bytes = [0; 4];
        self.program.read(slot, &mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    /// Runs a segment of the plan.
    pub fn segment(&mut self, segment: SegmentId) -> Result<()> {
        run_segment(self.plan, self.program, segment, self.check_nodes)
    }

    /// Tells the observer that step `index` (from 0) of `steps` is done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the observer asks to stop.
    pub fn step_done(
        &mut self,
        stage: StageName,
        [index, steps]: [usize; 2],
        time: f32,
        x: Option<Slot>,
        preview: Option<Preview>,
    ) -> Result<()> {
        let Self { plan, check_nodes, .. } = *self;
        let mut step = Step { stage, index, steps, time, x, preview, plan, check_nodes, program: self.program };
        match self.observer.step(&mut step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }

    /// Hands an intermediate result to the observer.
    pub fn keep(&mut self, name: &'static str, tensor: HostTensor) {
        self.observer.tensor(name, tensor);
    }

    /// Fails if `count`, a stage's number of values that are not finite, is not 0. Says whether weights are to
    /// blame: the stage's own, or those of the stages before it.
    pub fn finite(&mut self, count: Slot, stage: StageName, steps: usize) -> Result<()> {
        let count = self.read_count(count)?;
        if count == 0 {
            return Ok(());
        }
        let after = if steps == 1 { " after 1 step".into() } else { format!(" after {steps} steps") };
        let model = self.job.model;
        let weights = [&model.text.0, &model.stage_c.0, &model.stage_b.0, &model.stage_a.0];
        Err(not_finite(&weights, &stage.to_string(), count, after))
    }
}

/// The error for `count` values of `stage` that are not finite. Says whether one of these networks' weights is to blame.
pub(super) fn not_finite(networks: &[&Checkpoint], stage: &str, count: u32, after: String) -> Error {
    for weights in networks {
        if let Some((name, _)) = weights.first_non_finite() {
            return Error::Tensor {
                path: weights.path.clone(),
                name: name.to_owned(),
                expected: "finite numbers".into(),
                found: format!(
                    "NaN or infinity, so that {stage} produced {count} values that are not finite{after}; the file is damaged, download it again"
                ),
            };
        }
    }
    let remedy = "the weights are finite; try dtype f32, or less guidance".into();
    Error::NotFinite { stage: stage.to_owned(), count, after, remedy }
}
