//! From a request to pictures: the one road through all stages.

mod batch;
pub mod record;
mod run;

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Program, Residency};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::model::Model;
use crate::request::Request;
use crate::shape::Shape;
use crate::tokenizer::{Encoding, Tokenizer};
use batch::Job;
use record::{Extent, Recorded};
use run::Run;

/// A model on a device, ready for requests.
pub struct Pipeline {
    model: Model,
    tokenizer: Tokenizer,
    backend: Box<dyn Backend>,
    compiled: Option<(Extent, Compiled)>,
}

/// A recorded plan and the program made of it.
struct Compiled {
    recorded: Recorded,
    program: Box<dyn Program>,
}

/// Start latents given by the user instead of seeded noise, `[n, h, w, c]`.
#[derive(Debug, Default, Clone)]
pub struct StartLatents {
    /// For Stage C.
    pub stage_c: Option<Vec<f32>>,
    /// For Stage B.
    pub stage_b: Option<Vec<f32>>,
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
    /// Bytes that could be had; the largest number where that is not known.
    pub free: u64,
    /// Where the weights are.
    pub residency: Residency,
}

/// What is going on, for a progress display.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// A plan was made, and no weight has moved yet.
    Planned(Footprint),
    /// A stage begins; it takes this many steps.
    Begin(&'static str, usize),
    /// One step of it is done.
    Step,
}

/// Time spent per stage, over all images.
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

/// Intermediate results of one batch, as real numbers.
#[derive(Debug)]
pub struct Intermediates {
    /// Token ids `[n, 1, t, 1]` of each image's prompt.
    pub tokens: (Shape, Vec<u32>),
    /// By name, `[n, h, w, c]`: `text_states`, `text_pooled`, `stage_c`, `stage_b`, `image`.
    pub tensors: Vec<(&'static str, Shape, Vec<f32>)>,
}

/// One batch of finished pictures.
#[derive(Debug)]
pub struct Batch {
    /// Index of the first among all images of the request.
    pub first: usize,
    /// The pictures.
    pub images: Vec<Image>,
    /// Present if asked for.
    pub intermediates: Option<Intermediates>,
}

/// What the caller wants besides pictures, and whom to tell.
pub struct Options<'a> {
    /// Instead of seeded noise.
    pub latents: &'a StartLatents,
    /// Keep intermediate results.
    pub keep: bool,
    /// Compare every node with the reference as it runs.
    pub check_nodes: bool,
    /// Called as work proceeds.
    pub progress: &'a mut dyn FnMut(Progress),
    /// Called with the words that a prompt lost because it was too long.
    pub truncated: &'a mut dyn FnMut(&str, &str),
}

impl Pipeline {
    /// A pipeline of an opened model.
    ///
    /// # Errors
    /// If the tokenizer cannot be read.
    pub fn new(model: Model, backend: Box<dyn Backend>) -> Result<Self> {
        let config = &model.text.1;
        let tokenizer = Tokenizer::open(&model.tokenizer, config.max_position_embeddings, config.vocab_size)?;
        Ok(Self { model, tokenizer, backend, compiled: None })
    }

    /// The device.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Makes the program for the request's first images, which [`generate`](Self::generate) would
    /// otherwise do first.
    ///
    /// # Errors
    /// Requests that are out of range or do not fit into memory.
    pub fn prepare(&mut self, request: &Request, mut options: Options<'_>) -> Result<()> {
        request.check()?;
        self.compile(request, 0, &mut options).map(drop)
    }

    /// Makes every picture of the request, as batches of what memory allows, and
    /// hands each batch over as soon as it is done.
    ///
    /// Images are numbered prompt by prompt: `count` of the first, then of the second.
    ///
    /// # Errors
    /// Requests that are out of range or do not fit into memory, and what
    /// `done` returns.
    pub fn generate(
        &mut self,
        request: &Request,
        mut options: Options<'_>,
        mut done: impl FnMut(Batch) -> Result<()>,
    ) -> Result<Times> {
        request.check()?;
        let mut times = Times::default();
        let texts = self.encode(request, &mut options)?;
        let total = request.images();
        let mut first = 0;
        while first < total {
            let start = Instant::now();
            let images = self.compile(request, first, &mut options)?;
            times.plan += start.elapsed();
            done(self.run(request, &texts, first..first + images, &mut options, &mut times)?)?;
            first += images;
        }
        Ok(times)
    }

    /// Token ids of every prompt, then of the negative prompt.
    fn encode(&self, request: &Request, options: &mut Options<'_>) -> Result<Vec<Encoding>> {
        let prompts = request.prompts.iter().chain([&request.negative]);
        let encode = |prompt: &String| {
            let encoding = self.tokenizer.encode(prompt)?;
            if let Some(cut) = &encoding.cut {
                (options.truncated)(prompt, cut);
            }
            Ok(encoding)
        };
        prompts.map(encode).collect()
    }

    /// Makes the program for as many images from `first` on as memory allows; returns how many.
    fn compile(&mut self, request: &Request, first: usize, options: &mut Options<'_>) -> Result<usize> {
        let total = request.images();
        let mut images = total - first;
        if let Some((extent, _)) = &self.compiled {
            images = images.min(extent.images);
        }
        loop {
            let extent = Extent::of(request, first..first + images, options.keep);
            if self.compiled.as_ref().is_some_and(|(known, _)| *known == extent) {
                return Ok(images);
            }
            self.compiled = None;
            let recorded = record::record(&self.model, &extent)?;
            let device = self.backend.device();
            // Asked for anew: others may have taken memory since the device was opened.
            let (need, free) = (recorded.least_bytes(total, device), self.backend.free_bytes()?);
            if need <= free / 10 * 9 {
                let activations = recorded.activation_bytes(total, device);
                let program = self.backend.compile(recorded.plan.clone())?;
                let (weights, residency) = (recorded.plan.weight_bytes(device.stores_bf16()), program.residency());
                let footprint = Footprint { images, activations, weights, free, residency };
                (options.progress)(Progress::Planned(footprint));
                self.compiled = Some((extent, Compiled { recorded, program }));
                return Ok(images);
            }
            if images == 1 {
                return Err(self.does_not_fit(&extent, &recorded, total, free));
            }
            images = images.div_ceil(2);
        }
    }

    fn does_not_fit(&self, extent: &Extent, recorded: &Recorded, total: usize, free: u64) -> Error {
        let device = self.backend.device();
        let mut smaller = *extent;
        let fits = loop {
            smaller.width = (smaller.width / 2).next_multiple_of(8);
            smaller.height = (smaller.height / 2).next_multiple_of(8);
            if smaller.width < 64 || smaller.height < 64 {
                break None;
            }
            if record::record(&self.model, &smaller).is_ok_and(|r| r.least_bytes(total, device) <= free / 10 * 9) {
                break Some(smaller);
            }
        };
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (need, activations) = (recorded.least_bytes(total, device), recorded.activation_bytes(total, device));
        Error::DoesNotFit {
            device: device.name.clone(),
            free_mib: mib(free / 10 * 9),
            need_mib: mib(need),
            detail: format!(
                "one image of {}×{} px, {} and {} steps: activations {} MiB, weights at once {} MiB",
                extent.width,
                extent.height,
                extent.steps[0],
                extent.steps[1],
                mib(activations),
                mib(need - activations)
            ),
            remedy: match fits {
                Some(s) => format!("--width {} --height {} would fit", s.width, s.height),
                None => "no size would fit; try fewer steps, or free memory".into(),
            },
        }
    }

    fn run(
        &mut self,
        request: &Request,
        texts: &[Encoding],
        images: Range<usize>,
        options: &mut Options<'_>,
        times: &mut Times,
    ) -> Result<Batch> {
        let rounds = self.backend.device().rounds();
        let (extent, Compiled { recorded, program }) = self.compiled.as_mut().expect("compiled before it is run");
        let run =
            Run { plan: &recorded.plan, program: program.as_mut(), check_nodes: options.check_nodes.then_some(rounds) };
        Job { model: &self.model, request, texts, images, extent, recorded, run, options, tensors: Vec::new() }
            .make(times)
    }
}
