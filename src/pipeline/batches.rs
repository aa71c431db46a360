//! The batches of a run: how many images each has, the plans that it takes, and the passes of Stage C.

use std::ops::Range;
use std::time::Instant;

use super::beginning::Begun;
use super::inputs::{HostTensor, Inputs};
use super::key::{PlanKey, Until};
use super::observer::{Footprint, Observer, Outline, Times};
use super::plans::Compiled;
use super::run::{Job, Results, Run};
use super::{Options, Pipeline, stages};
use crate::error::{Error, Result};
use crate::picture::interpolate;
use crate::request::Request;
use crate::shape::Shape;
use crate::tokenizer::Encoding;

/// One pass of the stages over a batch.
pub(super) struct Pass<'a> {
    request: Request,
    options: Options<'a>,
    until: Until,
    /// How many times as large it is as the request asks for it.
    enlarged: f32,
}

impl<'a> Pass<'a> {
    /// The pass that ends with what is wanted. What begins Stage C has begun the first one, where there are two.
    pub fn last(request: &Request, options: Options<'a>, until: Until) -> Self {
        let inputs = match request.is_hires() {
            true => Inputs { init: None, control: &[], start_c: None, ..options.inputs },
            false => options.inputs,
        };
        Self { request: request.last_pass(), options: Options { inputs, ..options }, until, enlarged: request.hires }
    }

    /// The pass before that, of Stage C alone, where the request has two.
    fn first(request: &Request, options: &Options<'a>, until: Until) -> Option<Self> {
        let is_made = until != Until::Text && options.inputs.stage_c.is_none();
        let Options { inputs, preview, check_nodes, .. } = *options;
        (request.is_hires() && is_made).then(|| Self {
            request: Request { hires: 1.0, ..request.clone() },
            options: Options { inputs, preview, check_nodes, ..Options::default() },
            until: Until::StageC,
            enlarged: 1.0,
        })
    }

    /// What a batch begins with that is given.
    fn given(&self, images: Range<usize>) -> Option<Begun<'a>> {
        self.options.inputs.init.map(|init| Begun::of(init, images))
    }
}

impl Pipeline {
    /// Makes all images of a request, whose texts have these `tokens`.
    pub(super) fn batches(
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
        let before = Pass::first(request, &options, until);
        let last = Pass::last(request, options, until);
        while first < end {
            let start = Instant::now();
            let images = first..(first + most).min(end);
            // The last pass takes the most memory, so it says how many images there are in a batch.
            most = self.compile(&last, images.clone(), observer)?;
            let images = first..first + most.min(images.len());
            let begun = match &before {
                Some(_) => Some(Begun { latents: Vec::new(), strength: request.hires_strength, repaint: None }),
                None => last.given(images.clone()),
            };
            let mut outline = self.outline(&last, images.clone(), begun.as_ref());
            let begun = match &before {
                None => {
                    times.plan += start.elapsed();
                    observer.batch(&outline);
                    begun
                }
                Some(before) => {
                    let fit = self.compile(before, images.clone(), &mut ())?;
                    if fit < images.len() {
                        most = fit;
                        continue;
                    }
                    let given = before.given(images.clone());
                    let first_of_all = self.outline(before, images.clone(), given.as_ref());
                    outline.stages.splice(..0, first_of_all.stages);
                    times.plan += start.elapsed();
                    observer.batch(&outline);
                    let results = self.run_batch(before, tokens, images.clone(), given, observer, &mut times)?;
                    let small = results.stage_c.expect("Stage C is the pass's result");
                    let start = Instant::now();
                    self.compile(&last, images.clone(), &mut ())?;
                    times.plan += start.elapsed();
                    begun.map(|begun| Begun { latents: enlarged(&small, last.request.sizes().c), ..begun })
                }
            };
            let results = self.run_batch(&last, tokens, images.clone(), begun, observer, &mut times)?;
            first = images.end;
            done(images, results)?;
        }
        Ok(times)
    }

    /// Makes the latest plan one of this pass for the first of `images`, as many as memory and the device's limits allow;
    /// returns how many.
    pub(super) fn compile(
        &mut self,
        pass: &Pass<'_>,
        images: Range<usize>,
        observer: &mut dyn Observer,
    ) -> Result<usize> {
        let Pass { request, options, until, enlarged } = pass;
        let mut most = images.len();
        loop {
            // One generator for all images draws for all of them.
            let total = if request.noise.is_of_batch() { request.images() } else { most };
            let key = PlanKey::of(request, images.start..images.start + most, options, *until);
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
                let weights = Footprint::of_weights(&recorded.plan, device, program.residency());
                let kept = stages::kept_bytes(&self.model, &key);
                observer.planned(&Footprint { images: most, activations, kept, free, ..weights });
                self.plans.push(Compiled { key, recorded, program, activations });
                return Ok(most);
            }
            if most == 1 {
                return Err(self.does_not_fit(&key, &recorded, total, *enlarged)?);
            }
            most = most.div_ceil(2);
        }
    }

    /// What the latest plan does for `images`.
    fn outline(&mut self, pass: &Pass<'_>, images: Range<usize>, begun: Option<&Begun<'_>>) -> Outline {
        let Compiled { key, recorded, .. } = self.plans.latest().expect("a plan was compiled");
        let Pass { request, options, .. } = pass;
        let (model, inputs) = (&self.model, &options.inputs);
        recorded.outline(&Job { model, request, inputs, begun, tokens: &[], images, texts: key.texts })
    }

    /// Runs the latest plan for `images`.
    fn run_batch(
        &mut self,
        pass: &Pass<'_>,
        tokens: &[Encoding],
        images: Range<usize>,
        begun: Option<Begun<'_>>,
        observer: &mut dyn Observer,
        times: &mut Times,
    ) -> Result<Results> {
        let rounds = self.backend.device().rounds();
        let Compiled { key, recorded, program, .. } = self.plans.latest().expect("a plan was compiled");
        let Pass { request, options, .. } = pass;
        let (model, inputs, begun) = (&self.model, &options.inputs, begun.as_ref());
        let job = Job { model, request, inputs, begun, tokens, images, texts: key.texts };
        let mut run = Run {
            plan: &recorded.plan,
            program: program.as_mut(),
            job: &job,
            observer,
            check_nodes: options.check_nodes.then_some(rounds),
            keep: options.keep,
            results: Results::default(),
        };
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

/// Latents at a larger size, height and width: one image after the other.
fn enlarged(latents: &HostTensor, (height, width): (usize, usize)) -> Vec<f32> {
    let Shape { n, h, w, c } = latents.shape;
    (0..n).flat_map(|image| interpolate(&latents.images(&[image]), [h, w], [height, width], c)).collect()
}
