//! From a request to pictures, or part of the way: text states alone, Stage C alone, the decoder alone.

mod beginning;
mod conditions;
mod control;
mod encode;
mod inputs;
mod key;
mod observer;
mod options;
mod plans;
mod run;
mod sampling;
mod stage_a;
mod stage_b;
mod stage_c;
mod stages;
mod tests;
mod text;
mod update;

use std::ops::Range;
use std::time::Instant;

use crate::adapters::{Adapter, Applied};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::model::Model;
use crate::request::Request;
use crate::shape::Shape;
use crate::tokenizer::{Encoding, Tokenizer};
pub use control::{Additions, Control};
pub use inputs::{HostTensor, Init, Inputs, Prior, Repaint, TextEmbeddings};
use key::{PlanKey, Until};
pub use observer::{Footprint, Observer, Outline, StageName, Step, Times};
pub use options::{Batch, Options};
use plans::{Compiled, Plans};
use run::{Job, Results, Run};
pub use stages::plan;

/// A model on a device, ready for requests. Plans are compiled when they are first needed and kept for
/// requests of the same kind.
pub struct Pipeline {
    model: Model,
    tokenizer: Tokenizer,
    backend: Box<dyn Backend>,
    plans: Plans,
}

impl Pipeline {
    /// A pipeline of an opened model.
    ///
    /// # Errors
    /// If the tokenizer cannot be read.
    pub fn new(model: Model, backend: Box<dyn Backend>) -> Result<Self> {
        let config = &model.text.1;
        let learned: usize = model.learned.iter().map(|(_, rows)| rows.len()).sum();
        let vocabulary = config.vocab_size - learned;
        let mut tokenizer = Tokenizer::open(&model.tokenizer, config.max_position_embeddings, vocabulary)?;
        tokenizer.learn(&model.learned)?;
        Ok(Self { model, tokenizer, backend, plans: Plans::default() })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Replaces the adapters that change the model's weights, see [`Model::adapt`]. The weights that are on the device
    /// stay there.
    ///
    /// # Errors
    /// Those of [`Model::adapt`]; the adapters are then those of before.
    pub fn adapt(&mut self, adapters: &[(&Adapter, f32)]) -> Result<Vec<Applied>> {
        let applied = self.model.adapt(adapters)?;
        while self.plans.drop_oldest() {}
        Ok(applied)
    }

    /// The tokenizer of the model's text encoder.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The device.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Lets plans be kept as long as their activations together take at most `bytes` of the device's memory.
    /// Without this, together they take no more than the largest of them.
    pub fn keep_plans(&mut self, bytes: u64) {
        self.plans.budget = bytes;
    }

    /// Makes every picture of the request: `count` of the first prompt, then of the second.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// # #[cfg(feature = "demo")] {
    /// # use cascade_rt::{Model, Pipeline, Request, devices};
    /// let mut pipeline = Pipeline::new(Model::demo()?, devices::Choice::Cpu.open()?)?;
    /// let request = Request { width: 64, height: 64, steps: (2, 1), ..Request::new("a fox") };
    /// let images = pipeline.generate(&request)?;
    /// assert_eq!(images[0].rgb.len(), 64 * 64 * 3);
    /// # }
    /// # Ok::<(), cascade_rt::Error>(())
    /// ```
    pub fn generate(&mut self, request: &Request) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        self.run(request, Options::default(), |batch| {
            images.extend(batch.images);
            Ok(())
        })?;
        Ok(images)
    }

    /// Makes the pictures of the request in batches, and passes each batch to `done` as
    /// soon as it is finished. Returns the time that each stage took.
    ///
    /// # Errors
    /// Requests and inputs that are out of range or do not fit into memory, a device that is lost, numbers that
    /// are not finite, [`Error::Interrupted`] if the observer stops the run, and what `done` returns.
    pub fn run(
        &mut self,
        request: &Request,
        mut options: Options<'_>,
        mut done: impl FnMut(Batch) -> Result<()>,
    ) -> Result<Times> {
        let tokens = self.tokens(request, &mut options)?;
        self.batches(request, &tokens, options, Until::Pictures, |images, results| {
            done(Batch { first: images.start, images: results.images })
        })
    }

    /// Samples Stage C alone, for a decoder that runs later or elsewhere. With [`Prior::inputs`], a run of the
    /// same request makes the same pictures as one run of everything.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn prior(&mut self, request: &Request, mut options: Options<'_>) -> Result<(Prior, Times)> {
        let mut nobody = ();
        let observer: &mut dyn Observer = options.observer.take().map_or(&mut nobody, |observer| observer);
        let mut times = Times::default();
        let text = match options.inputs.text {
            Some(text) => text.clone(),
            None => {
                let Options { keep, check_nodes, .. } = options;
                let (text, spent) = self.encode_text(
                    request,
                    Options { keep, check_nodes, observer: Some(&mut *observer), ..Options::default() },
                )?;
                times = spent;
                text
            }
        };
        let mut stage_c: Option<HostTensor> = None;
        let inputs = Inputs { text: Some(&text), ..options.inputs };
        let spent = self.batches(
            request,
            &[],
            Options { inputs, observer: Some(observer), ..options },
            Until::StageC,
            |_, results| {
                let batch = results.stage_c.expect("Stage C is the plan's result");
                match &mut stage_c {
                    Some(all) => all.append(batch),
                    none => *none = Some(batch),
                }
                Ok(())
            },
        )?;
        times += spent;
        Ok((Prior { stage_c: stage_c.expect("a request has an image"), text }, times))
    }

    /// Encodes every prompt of the request, then its negative prompt.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn encode_text(&mut self, request: &Request, mut options: Options<'_>) -> Result<(TextEmbeddings, Times)> {
        // A batch of texts is what a batch of as many images has: all prompts of some images, then the negative.
        let request = Request { count: 1, ..request.clone() };
        options.images = None;
        let tokens = self.tokens(&request, &mut options)?;
        self.encode(&request, &tokens, options)
    }

    /// Encodes texts that are tokenised already, one row each.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn encode_tokens(&mut self, tokens: &[Encoding], observer: &mut dyn Observer) -> Result<TextEmbeddings> {
        // The texts of a request, whose negative prompt is the last of them once more.
        let last = tokens.last().into_iter().cloned();
        let request = Request { prompts: vec![String::new(); tokens.len()], ..Request::default() };
        let all: Vec<Encoding> = tokens.iter().cloned().chain(last).collect();
        let options = Options { observer: Some(observer), ..Options::default() };
        let (encoded, _) = self.encode(&request, &all, options)?;
        let rows: Vec<usize> = (0..tokens.len()).collect();
        Ok(TextEmbeddings {
            states: encoded.states.map(|states| states.rows(&rows)),
            pooled: encoded.pooled.rows(&rows),
        })
    }

    fn encode(
        &mut self,
        request: &Request,
        tokens: &[Encoding],
        options: Options<'_>,
    ) -> Result<(TextEmbeddings, Times)> {
        let prompts = request.prompts.len();
        let (mut states, mut pooled): (Option<HostTensor>, Option<HostTensor>) = (None, None);
        let times = self.batches(request, tokens, options, Until::Text, |images, results| {
            let batch = results.text.expect("text is the plan's result");
            for (all, batch) in [&mut states, &mut pooled].into_iter().zip(batch) {
                let rows: Vec<usize> = match images.end == prompts {
                    true => (0..batch.shape.n).collect(),
                    false => (0..batch.shape.n - 1).collect(),
                };
                let part = HostTensor { shape: Shape { n: rows.len(), ..batch.shape }, values: batch.images(&rows) };
                match all {
                    Some(all) => all.append(part),
                    none => *none = Some(part),
                }
            }
            Ok(())
        })?;
        let pooled = pooled.expect("a request has a prompt");
        Ok((TextEmbeddings { states, pooled }, times))
    }

    /// Compiles the plan for the request's first batch, which [`run`](Self::run) would otherwise do first.
    ///
    /// # Errors
    /// Requests that are out of range or do not fit into memory.
    pub fn prepare(&mut self, request: &Request, mut options: Options<'_>) -> Result<()> {
        let mut nobody = ();
        let observer: &mut dyn Observer = options.observer.take().map_or(&mut nobody, |observer| observer);
        request.check()?;
        options.inputs.check(request, &self.model)?;
        self.compile(request, 0..request.images(), &options, observer, Until::Pictures).map(drop)
    }

    /// Checks a request and what is given with it; returns the tokens of its texts, unless states are given.
    fn tokens(&self, request: &Request, options: &mut Options<'_>) -> Result<Vec<Encoding>> {
        request.check()?;
        options.inputs.check(request, &self.model)?;
        let mut nobody = ();
        let observer: &mut dyn Observer = options.observer.as_deref_mut().map_or(&mut nobody, |observer| observer);
        match options.inputs.text {
            Some(_) => Ok(Vec::new()),
            None => self.tokenize(request, observer),
        }
    }

    /// Makes all images of a request, whose texts have these `tokens`.
    fn batches(
        &mut self,
        request: &Request,
        tokens: &[Encoding],
        mut options: Options<'_>,
        until: Until,
        mut done: impl FnMut(Range<usize>, Results) -> Result<()>,
    ) -> Result<Times> {
        let mut nobody = ();
        let observer: &mut dyn Observer = options.observer.take().map_or(&mut nobody, |observer| observer);
        request.check()?;
        options.inputs.check(request, &self.model)?;
        let mut times = Times::default();
        let Range { start: mut first, end } = options.images.clone().unwrap_or(0..request.images());
        if first >= end || end > request.images() {
            let (expected, found) = (format!("some of {}", request.images()), format!("{first} to {end}"));
            return Err(Error::Request { what: "images".into(), expected, found });
        }
        let limit = options.limit(self.backend.device().kind, until);
        // As few batches as possible, as equal as possible: those of the same size share a plan.
        let mut most = (end - first).div_ceil((end - first).div_ceil(limit));
        while first < end {
            let start = Instant::now();
            let images = first..(first + most).min(end);
            most = self.compile(request, images.clone(), &options, observer, until)?;
            times.plan += start.elapsed();
            let images = first..first + most.min(images.len());
            let results = self.run_batch(request, tokens, images.clone(), &options, observer, &mut times)?;
            first = images.end;
            done(images, results)?;
        }
        Ok(times)
    }

    /// Token ids of every prompt, then of the negative prompt.
    fn tokenize(&self, request: &Request, observer: &mut dyn Observer) -> Result<Vec<Encoding>> {
        let prompts = request.prompts.iter().chain([&request.negative]);
        let mut encode = |prompt: &String| {
            let encoding = self.tokenizer.encode(prompt)?;
            if let Some(cut) = &encoding.cut {
                observer.truncated(prompt, cut);
            }
            Ok(encoding)
        };
        prompts.map(&mut encode).collect()
    }

    /// Makes the latest plan one for the first of `images`, as many as memory and the device's limits allow; returns how many.
    fn compile(
        &mut self,
        request: &Request,
        images: Range<usize>,
        options: &Options<'_>,
        observer: &mut dyn Observer,
        until: Until,
    ) -> Result<usize> {
        let mut most = images.len();
        loop {
            // One generator for all images draws for all of them.
            let total = if request.noise.is_of_batch() { request.images() } else { most };
            let key = PlanKey::of(request, images.start..images.start + most, options, until);
            if self.plans.touch(&key) {
                return Ok(most);
            }
            let recorded = stages::record(&self.model, &key)?;
            let device = self.backend.device();
            let (need, activations) = (recorded.least_bytes(total, device), recorded.activation_bytes(total, device));
            if let Some(free) = self.plans.make_room(need, activations, self.backend.as_ref())? {
                let program = match self.backend.compile(recorded.plan.clone()) {
                    // Beside the kept plans, of which one may need more weights at once than this one does.
                    Err(Error::DoesNotFit { .. }) if self.plans.drop_oldest() => continue,
                    // The device has less memory than it said, or something of so many images exceeds its limits.
                    Err(Error::DoesNotFit { .. } | Error::TooLarge { .. }) if most > 1 => {
                        most = most.div_ceil(2);
                        continue;
                    }
                    program => program?,
                };
                let (weights, int8) = match device.copies_weights {
                    true => (recorded.plan.weight_bytes(device.stores_bf16()), 0),
                    false => recorded.plan.mapped_bytes(),
                };
                let residency = program.residency();
                let kept = stages::kept_bytes(&self.model, &key);
                observer.planned(&Footprint { images: most, activations, weights, int8, kept, free, residency });
                self.plans.push(Compiled { key, recorded, program, activations });
                return Ok(most);
            }
            if most == 1 {
                return Err(self.does_not_fit(&key, &recorded, total)?);
            }
            most = most.div_ceil(2);
        }
    }

    /// Runs the latest plan for `images`.
    fn run_batch(
        &mut self,
        request: &Request,
        tokens: &[Encoding],
        images: Range<usize>,
        options: &Options<'_>,
        observer: &mut dyn Observer,
        times: &mut Times,
    ) -> Result<Results> {
        let rounds = self.backend.device().rounds();
        let Compiled { key, recorded, program, .. } = self.plans.latest().expect("a plan was compiled");
        let job = Job { model: &self.model, request, inputs: &options.inputs, tokens, images, texts: key.texts };
        let mut run = Run {
            plan: &recorded.plan,
            program: program.as_mut(),
            job: &job,
            observer,
            check_nodes: options.check_nodes.then_some(rounds),
            keep: options.keep,
            results: Results::default(),
        };
        run.observer.batch(&recorded.outline(&job));
        for stage in &recorded.stages {
            let start = Instant::now();
            let steps = stage.steps(&job);
            if steps > 0 {
                run.observer.begin(stage.name(), steps);
            }
            stage.run(&mut run)?;
            times.add(stage.name(), start.elapsed());
        }
        Ok(run.results)
    }
}
