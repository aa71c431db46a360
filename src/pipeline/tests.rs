//! The pipeline on the CPU with a small untrained model: parts of it, stops, plans that are kept.

#![cfg(test)]

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::key::{PlanKey, Until};
use super::observer::{Observer, StageName, Step};
use super::run::{Job, Results, Run};
use super::{HostTensor, Inputs, Options, Pipeline, Prior, stages};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Device, Program};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::model::Model;
use crate::noise::{LatentNoise, NoiseKind, NoiseStream};
use crate::plan::{Plan, Slot};
use crate::registry::Kernel;
use crate::request::Request;
use crate::shape::Shape;
use crate::weights::{ModelPaths, Overrides};

mod hires;
mod samplers;

fn model() -> Model {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny").into();
    Model::open(&ModelPaths::find(Some(&folder), None, &Overrides::default()).unwrap()).unwrap()
}

/// The CPU, counting the plans that are compiled for it.
struct Counting(Cpu, Arc<AtomicUsize>);

impl Backend for Counting {
    fn device(&self) -> &Device {
        self.0.device()
    }

    fn compile_with(&self, plan: Arc<Plan>, kernels: &[&'static Kernel]) -> Result<Box<dyn Program>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.compile_with(plan, kernels)
    }
}

fn pipeline() -> (Pipeline, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    (Pipeline::new(model(), Box::new(Counting(Cpu::new(false), count.clone()))).unwrap(), count)
}

fn request() -> Request {
    let prompts = vec!["a fox".into(), "two words".into()];
    Request { prompts, negative: "blurry".into(), count: 2, width: 72, height: 64, steps: (3, 2), ..Request::default() }
}

fn pictures(pipeline: &mut Pipeline, request: &Request, inputs: Inputs<'_>) -> Vec<Image> {
    let mut images = Vec::new();
    let options = Options { inputs, ..Options::default() };
    let run = pipeline.run(request, options, |batch| {
        images.extend(batch.images);
        Ok(())
    });
    run.unwrap();
    images
}

/// Notes what it is told; stops after some steps.
#[derive(Default)]
struct Notes {
    stages: Vec<(StageName, usize)>,
    /// Diffusion times, by stage.
    times: Vec<(StageName, f32)>,
    /// Latents after each step of Stages C and B.
    latents: Vec<HostTensor>,
    tensors: Vec<(&'static str, HostTensor)>,
    stop_after: Option<usize>,
}

impl Observer for Notes {
    fn begin(&mut self, stage: StageName, steps: usize) {
        self.stages.push((stage, steps));
    }

    fn step(&mut self, step: &mut Step<'_>) -> ControlFlow<()> {
        self.times.push((step.stage, step.time));
        self.latents.extend(step.latents().unwrap());
        match self.stop_after == Some(self.times.len()) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn tensor(&mut self, name: &'static str, tensor: HostTensor) {
        self.tensors.push((name, tensor));
    }
}

#[test]
fn an_observer_sees_every_step_and_reads_latents() {
    let (mut pipeline, _) = pipeline();
    let mut notes = Notes::default();
    let options = Options { keep: true, observer: Some(&mut notes), ..Options::default() };
    pipeline.run(&request(), options, |_| Ok(())).unwrap();
    use StageName::{StageA, StageB, StageC, Text};
    assert_eq!(notes.stages, [(Text, 1), (StageC, 3), (StageB, 2), (StageA, 1)]);
    let steps: Vec<StageName> = notes.times.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(steps, [Text, StageC, StageC, StageC, StageB, StageB, StageA]);
    assert_eq!((notes.times[1].1, notes.times[4].1), (1.0, 1.0), "sampling begins with noise");
    let named = |name| &notes.tensors.iter().find(|(known, _)| *known == name).unwrap().1;
    assert_eq!(&notes.latents[2], named("stage_c"), "the last step's latents are the stage's result");
    assert_eq!(&notes.latents[4], named("stage_b"));
    assert_ne!(notes.latents[0], notes.latents[1]);
    let names: Vec<_> = notes.tensors.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["tokens", "text_states", "text_pooled", "stage_c", "stage_b", "image"]);
    assert!(
        notes.tensors.iter().all(|(_, tensor)| tensor.shape.n == 4 && tensor.values.len() == tensor.shape.elements())
    );
}

/// After whatever step a run is stopped, it makes no picture, and the next run is as if nothing had happened.
#[test]
fn a_run_can_be_stopped_after_any_step() {
    let (mut pipeline, compiled) = pipeline();
    let want = pipeline.generate(&request()).unwrap();
    for stop_after in 1..=7 {
        let mut notes = Notes { stop_after: Some(stop_after), ..Notes::default() };
        let options = Options { observer: Some(&mut notes), ..Options::default() };
        let error = pipeline.run(&request(), options, |_| panic!("a picture of a run that was stopped")).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error}");
        assert_eq!(notes.times.len(), stop_after);
        assert_eq!(pipeline.generate(&request()).unwrap(), want, "after a stop at step {stop_after}");
    }
    assert_eq!(compiled.load(Ordering::Relaxed), 1);
}

#[test]
fn prior_and_decoder_apart_make_the_same_pictures() {
    let (mut pipeline, _) = pipeline();
    for request in [
        request(),
        Request { noise: NoiseKind::Philox, ..request() },
        Request { guidance: (0.0, 0.0), ..request() },
        Request { guidance: (2.0, 3.0), count: 1, ..request() },
    ] {
        let want = pipeline.generate(&request).unwrap();
        let (prior, _): (Prior, _) = pipeline.prior(&request, Options::default()).unwrap();
        assert_eq!((prior.stage_c.shape.n, prior.text.pooled.shape.n), (request.images(), 3));
        assert_eq!(pictures(&mut pipeline, &request, prior.inputs()), want);
        // Text that is given, with everything else computed from it.
        let text = Inputs { text: Some(&prior.text), ..Inputs::default() };
        assert_eq!(pictures(&mut pipeline, &request, text), want);
    }
}

#[test]
fn an_image_prompt_changes_the_picture_and_zeros_do_not() {
    let (mut pipeline, _) = pipeline();
    let want = pipeline.generate(&request()).unwrap();
    let channels = pipeline.model().stage_c.1.clip_image_in_channels.unwrap();
    let shape = Shape::new(4, 1, 1, channels);
    let none = HostTensor { shape, values: vec![0.0; 4 * channels] };
    let some = HostTensor { shape, values: (0..4 * channels).map(|i| (i as f32).sin() * 4.0).collect() };
    let image = |image| Inputs { image: Some(image), ..Inputs::default() };
    assert_eq!(pictures(&mut pipeline, &request(), image(&none)), want);
    let got = pictures(&mut pipeline, &request(), image(&some));
    assert!(got.iter().zip(&want).all(|(got, want)| got != want), "every image has its own embedding");
}

/// CONTRIBUTING.md shows how a condition is added, by a file and a line that are really there.
#[test]
fn the_example_of_a_condition_is_the_code() {
    let text = include_str!("../../CONTRIBUTING.md");
    let (condition, stage) = (include_str!("conditions/image.rs"), include_str!("stage_c.rs"));
    assert!(text.contains(condition), "CONTRIBUTING.md does not show conditions/image.rs as it is");
    let line = stage.lines().find(|line| line.contains("image::record(")).expect("Stage C asks for it");
    assert!(text.contains(line), "CONTRIBUTING.md does not show the line `{}`", line.trim());
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let (mut pipeline, compiled) = pipeline();
    let (prior, _) = pipeline.prior(&request(), Options::default()).unwrap();
    let before = compiled.load(Ordering::Relaxed);
    let mut message = |request: &Request, inputs: Inputs<'_>| {
        let error = pipeline.run(request, Options { inputs, ..Options::default() }, |_| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    let wide = HostTensor { shape: Shape::new(4, 1, 1, 3), values: vec![0.0; 12] };
    let short = HostTensor { values: vec![0.0; 11], ..wide.clone() };
    let given = Inputs::default();
    for (field, inputs) in [
        ("image: ", Inputs { image: Some(&wide), ..given }),
        ("image: ", Inputs { image: Some(&short), ..given }),
        ("stage_c: ", Inputs { stage_c: Some(&wide), ..given }),
        ("start_c: ", Inputs { start_c: Some(&wide), ..given }),
        ("start_b: ", Inputs { start_b: Some(&wide), ..given }),
    ] {
        let message = message(&request(), inputs);
        assert!(message.starts_with(field), "{message}");
    }
    let one = Request { prompts: vec!["a".into()], ..request() };
    assert!(message(&one, prior.inputs()).starts_with("text: expected text of 1 prompts"));
    let no_states = super::TextEmbeddings { states: None, ..prior.text.clone() };
    let inputs = Inputs { text: Some(&no_states), ..given };
    assert!(message(&request(), inputs).starts_with("text.states: "));
    let huge = HostTensor { shape: Shape::new(4, 1 << 20, 1, 16), values: Vec::new() };
    assert!(message(&request(), Inputs { stage_c: Some(&huge), ..given }).contains("1 to 384 pixels"));
    assert_eq!(compiled.load(Ordering::Relaxed), before, "nothing is compiled for them");
}

#[test]
fn plans_are_kept_within_the_memory_that_was_stated() {
    let (mut pipeline, compiled) = pipeline();
    let count = move |pipeline: &mut Pipeline, request: &Request| {
        let before = compiled.load(Ordering::Relaxed);
        pipeline.generate(request).unwrap();
        compiled.load(Ordering::Relaxed) - before
    };
    let one = |width| Request { prompts: vec!["a".into()], count: 1, width, ..request() };
    assert_eq!([one(64), one(64), one(128), one(64)].map(|r| count(&mut pipeline, &r)), [1, 0, 1, 1]);
    // What does not change a plan's shape changes nothing.
    let other = Request { seed: 9, prompts: vec!["b".into()], guidance: (7.0, 0.5), ..one(64) };
    assert_eq!(count(&mut pipeline, &other), 0);
    pipeline.keep_plans(1 << 30);
    assert_eq!([one(128), one(64), one(128), one(72), one(64)].map(|r| count(&mut pipeline, &r)), [1, 0, 0, 1, 0]);
    // The last batch is smaller, the first that was compiled serves again.
    assert_eq!(count(&mut pipeline, &Request { prompts: vec!["a".into(); 3], ..one(64) }), 1);
    assert_eq!(count(&mut pipeline, &one(64)), 0);
}

/// The CPU, which says as often as the number tells that a plan does not fit.
struct Refusing(Cpu, Arc<AtomicUsize>);

impl Backend for Refusing {
    fn device(&self) -> &Device {
        self.0.device()
    }

    fn compile_with(&self, plan: Arc<Plan>, kernels: &[&'static Kernel]) -> Result<Box<dyn Program>> {
        if self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| times.checked_sub(1)).is_ok() {
            let (device, detail, remedy) = Default::default();
            return Err(Error::DoesNotFit { device, free_mib: 0, need_mib: 0, detail, remedy });
        }
        self.0.compile_with(plan, kernels)
    }
}

#[test]
fn kept_plans_make_room_for_one_that_the_device_refuses() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let mut pipeline = Pipeline::new(model(), Box::new(Refusing(Cpu::new(false), refusals.clone()))).unwrap();
    pipeline.keep_plans(1 << 30);
    let one = |width| Request { prompts: vec!["a".into()], count: 1, width, ..request() };
    for width in [64, 72] {
        pipeline.generate(&one(width)).unwrap();
    }
    refusals.store(2, Ordering::Relaxed);
    assert!(pipeline.generate(&one(80)).is_ok());
    refusals.store(2, Ordering::Relaxed);
    assert_eq!(pipeline.generate(&one(88)).unwrap_err().exit_code(), 4, "one plan was kept, and one refusal is final");
}

/// Runs one stage's segments of a plan on the CPU.
fn noise_on_device(request: &Request, images: Range<usize>, keep: &mut Vec<HostTensor>) {
    let model = model();
    let inputs = Inputs::default();
    let key = PlanKey::of(request, images.clone(), &Options::default(), Until::StageC);
    let recorded = stages::record(&model, &key).unwrap();
    let mut program = WithoutNetwork(Cpu::new(false).compile(recorded.plan.clone()).unwrap());
    let tokens = vec![crate::tokenizer::Encoding { ids: vec![0; 77], len: 1, cut: None }; 2];
    let job = Job { model: &model, request, inputs: &inputs, begun: None, tokens: &tokens, images, texts: key.texts };
    let mut notes = Notes::default();
    let results = Results::default();
    let mut run = Run {
        plan: &recorded.plan,
        program: &mut program,
        job: &job,
        observer: &mut notes,
        check_nodes: None,
        keep: false,
        results,
    };
    recorded.stages.iter().for_each(|stage| stage.run(&mut run).unwrap());
    keep.extend(notes.latents);
}

/// A program whose sampler takes nothing from the network: each step leaves the noise that it adds.
struct WithoutNetwork(Box<dyn Program>);

impl Program for WithoutNetwork {
    fn residency(&self) -> crate::backend::Residency {
        self.0.residency()
    }

    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<()> {
        // The coefficients of every step: x' = 0·(x − 0·ε) + 1·z.
        let is_coefficients = slot.shape.c == 4 && slot.shape.h == 1 && slot.shape.n == 1;
        match is_coefficients {
            true => self.0.write(slot, bytemuck::cast_slice(&[0.0f32, 0.0, 1.0, 1.0].repeat(bytes.len() / 16))),
            false => self.0.write(slot, bytes),
        }
    }

    fn run(&mut self, nodes: Range<usize>) -> Result<()> {
        self.0.run(nodes)
    }

    fn time(&mut self, nodes: Range<usize>) -> Result<Vec<Duration>> {
        self.0.time(nodes)
    }

    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()> {
        self.0.read(slot, bytes)
    }
}

/// The noise that a device makes for some images of a request is what the host would make for them.
#[test]
fn noise_of_the_device_is_that_of_the_definition() {
    let request =
        Request { prompts: vec![String::new()], count: 5, steps: (3, 1), noise: NoiseKind::Philox, ..request() };
    let request = Request { seed: u64::MAX - 2, ..request };
    let images = 1..4;
    let mut got = Vec::new();
    noise_on_device(&request, images.clone(), &mut got);
    let all = Shape { n: request.images(), ..got[0].shape };
    let want = LatentNoise::of_request(request.noise, request.seed, NoiseStream::StageC, all, 3, images);
    assert_eq!(got.len(), 3);
    for (i, (got, want)) in got.iter().zip(want.steps.chunks(got[0].values.len())).enumerate() {
        assert!(got.values == want, "step {i}");
    }
}
