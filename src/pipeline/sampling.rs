//! What Stages B and C have in common: a U-Net with its conditions, and a loop of sampling steps.

use super::beginning::Beginning;
use super::conditions::{Batch, control, times};
use super::key::PlanKey;
use super::observer::{Preview, StageName};
use super::run::{Feed, Job, Run};
use super::update::Update;
use crate::error::{Error, Result};
use crate::net::config::UNetConfig;
use crate::net::unet::{Conditions, UNet};
use crate::net::{Net, slot};
use crate::noise::{LatentNoise, NoiseStream};
use crate::ops::{Advance, Concat, CountNonFinite, Element, Philox};
use crate::plan::{Recorder, SegmentId, Slot};
use crate::shape::Shape;
use crate::weights::Checkpoint;

/// What tells the sampling stages apart.
pub(super) struct Kind {
    pub stage: StageName,
    /// Index of the stage's setting where the request has a pair of them.
    pub index: usize,
    pub stream: NoiseStream,
    /// Names of its segments: conditions, the check of the result.
    pub segments: [&'static str; 2],
    /// Names of its steps with guidance and without: of one that computes the whole network, and of one that does not.
    pub steps: [[&'static str; 2]; 2],
}

/// A step as it was recorded.
struct Recorded {
    /// With the whole network.
    whole: SegmentId,
    /// With its finest level around what the last whole step has left, where some steps are like that.
    reuse: Option<SegmentId>,
}

/// A sampler as it was recorded.
pub(super) struct Sampling {
    stage: StageName,
    /// The stage's index where the request has a pair of settings.
    index: usize,
    steps: usize,
    condition: SegmentId,
    /// The current step, u32 `[1, 1, 1, 1]`.
    counter: Slot,
    /// One step.
    step: Recorded,
    /// One step without guidance, where only some steps have it.
    unguided: Option<Recorded>,
    check: SegmentId,
    preview: Option<Preview>,
    /// What the host writes before the conditions are computed, and before the loop.
    condition_feed: Feed,
    loop_feed: Feed,
    /// Latents `[n, h, w, c]`: start noise before the first step, the result after the last.
    pub x: Slot,
    /// Where the host writes the noise of every step, `[steps·n, h, w, c]`; absent where the device makes it, and
    /// where the sampler needs none.
    table: Option<Slot>,
    /// How many of the result's values are not finite.
    not_finite: Slot,
}

/// Records a picture, packed pixels `[n, h, w, 1]` (u32), of latents `[n, h, w, c]`.
type Picture<'a> = &'a dyn Fn(&mut Recorder, Slot) -> Result<Slot>;

impl Sampling {
    /// Records a sampler on latents of `size` (height, width). `conditions` records what the network is told
    /// besides latents and time: it gets the embedded times, and the feed for the inputs that it declares. Where there is a
    /// `picture`, it records what is shown of a step, if anybody asks.
    pub fn record(
        rec: &mut Recorder,
        (weights, config): &(Checkpoint, UNetConfig),
        key: &PlanKey,
        kind: &Kind,
        size: (usize, usize),
        picture: Option<Picture<'_>>,
        conditions: impl FnOnce(&mut Recorder, &mut Feed, Batch) -> Result<Conditions>,
    ) -> Result<Self> {
        let (index, steps, guidance) = (kind.index, key.steps[kind.index], key.guidance[kind.index]);
        let latents = Shape::new(key.images, size.0, size.1, config.in_channels);
        let (mut condition_feed, mut loop_feed) = (Feed::default(), Feed::default());

        let condition = rec.segment(kind.segments[0]);
        let batch = Batch { images: key.images, guided: guidance.some };
        let mut given = conditions(rec, &mut condition_feed, batch)?;
        given.times = times::record(rec, &mut condition_feed, config, index, steps);
        let unet = UNet { config };
        let mut conditioned = unet.condition(&mut Net::new(rec, weights), &given, latents)?;
        let philox = Philox { shape: latents, stream: kind.stream as u32 };
        let seed = key.philox.then(|| philox_seed(rec, &mut condition_feed));
        let x = match seed {
            Some(seed) => rec.node("noise", philox, &[slot(seed), None])?,
            None => rec.input(latents, Element::F32),
        };

        let mut table = None;
        let (counter, step, unguided, preview) = rec.repeat(steps, |rec| {
            let counter = rec.input(Shape::vector(1), Element::U32);
            loop_feed.add(move |_, run| run.write(counter, &[0u32]));
            let update = Update::declare(rec, &mut loop_feed, key, index, [x, counter], picture.is_some());
            if key.needs[index].noise && seed.is_none() {
                table = Some(rec.input(Shape { n: steps * key.images, ..latents }, Element::F32));
            }
            let strengths = (0..key.control.len()).map(|i| control::factors(rec, &mut loop_feed, i, steps));
            conditioned.strengths = if given.additions.is_empty() { Vec::new() } else { strengths.collect() };
            // One step; returns what its coarser levels have made, unless it is given.
            let one = |rec: &mut Recorder, name, guided: bool, deep: Option<Slot>| -> Result<(SegmentId, Slot)> {
                let segment = rec.segment(name);
                let (eps, deep) = if guided {
                    let both = rec.node("guidance", Concat::Images, &[slot(x), slot(x)])?;
                    let net = &mut Net::new(rec, weights);
                    let (eps, deep) = unet.step_around(net, both, &conditioned, counter, deep)?;
                    (update.guide(rec, eps, guidance.is_projected)?, deep)
                } else {
                    let alone = conditioned.first(key.images);
                    unet.step_around(&mut Net::new(rec, weights), x, &alone, counter, deep)?
                };
                let z = match seed.filter(|_| key.needs[index].noise) {
                    Some(seed) => Some(rec.node("noise", philox, &[slot(seed), slot(counter)])?),
                    None => table,
                };
                update.record(rec, eps, z)?;
                rec.update("sampler", Advance, &[slot(counter)], counter)?;
                Ok((segment, deep))
            };
            // A network of one level has no coarser ones.
            let reuses = key.reuse[index] && config.levels() > 1;
            let both = |rec: &mut Recorder, [whole, reuse]: [&'static str; 2], guided: bool| -> Result<Recorded> {
                let (whole, deep) = one(rec, whole, guided, None)?;
                let reuse = reuses.then(|| one(rec, reuse, guided, Some(deep)).map(|(segment, _)| segment));
                Ok(Recorded { whole, reuse: reuse.transpose()? })
            };
            let usual = both(rec, kind.steps[0], guidance.some)?;
            let unguided = (guidance.some && !guidance.all).then(|| both(rec, kind.steps[1], false));
            let preview = picture.zip(update.estimate()).map(|(picture, estimate)| {
                let segment = rec.segment("preview");
                let pixels = picture(rec, estimate)?;
                rec.keep(pixels);
                Ok(Preview { segment, pixels })
            });
            Ok((counter, usual, unguided.transpose()?, preview.transpose()?))
        })?;
        let stream = kind.stream;
        if seed.is_none() {
            loop_feed.add(move |job, run| start_noise(job, run, stream, x, table));
        }
        loop_feed.add(move |job, run| start_given(job, run, index, x));

        let check = rec.segment(kind.segments[1]);
        let not_finite = rec.node("finite", CountNonFinite, &[slot(x)])?;
        rec.keep(not_finite);
        rec.keep(x);
        let stage = kind.stage;
        Ok(Self {
            stage,
            index,
            steps,
            condition,
            counter,
            step,
            unguided,
            check,
            preview,
            condition_feed,
            loop_feed,
            x,
            table,
            not_finite,
        })
    }

    /// Steps that are taken for a batch.
    pub fn steps(&self, job: &Job<'_>) -> usize {
        self.steps - job.first_step(self.index)
    }

    /// As [`Stage::segments`](super::stages::Stage::segments), as if all steps were guided or none, and whole.
    pub fn segments(&self, job: &Job<'_>) -> Vec<(SegmentId, usize)> {
        vec![(self.condition, 1), (self.step.whole, self.steps(job)), (self.check, 1)]
    }

    /// Samples the batch, and sees to it that the result is finite.
    pub fn run(&self, run: &mut Run<'_>) -> Result<()> {
        self.condition_feed.write(run)?;
        run.segment(self.condition)?;
        self.loop_feed.write(run)?;
        let (steps, first) = (run.job.steps(self.index), run.job.first_step(self.index));
        // Stage B takes what Stage C has made of the picture.
        let beginning = if self.index == 0 { Beginning::of(run, self.x, first)? } else { None };
        if let Some(beginning) = beginning.as_ref().filter(|_| first > 0) {
            beginning.begin(run, self.x, steps.get(first))?;
            run.write(self.counter, &[first as u32])?;
        }
        let keep = |run: &mut Run<'_>, step| beginning.as_ref().map_or(Ok(()), |all| all.keep(run, self.x, step));
        for (i, step) in steps[first..].iter().enumerate() {
            keep(run, Some(step))?;
            let recorded = self.unguided.as_ref().filter(|_| !step.guided).unwrap_or(&self.step);
            // The first step has nothing of an earlier one that it could reuse, wherever the sampler begins.
            let reuse = recorded.reuse.filter(|_| !step.whole && i > 0);
            run.segment(reuse.unwrap_or(recorded.whole))?;
            run.step_done(self.stage, [i, steps.len() - first], step.r, Some(self.x), self.preview)?;
        }
        keep(run, None)?;
        run.segment(self.check)?;
        run.finite(self.not_finite, self.stage, steps.len() - first)
    }

    /// As [`Stage::host_bytes`](super::stages::Stage::host_bytes): the batch's noise, and twice one draw for as many
    /// images as are drawn at once, since torch draws channels first.
    pub fn host_bytes(&self, total: usize) -> u64 {
        let Some(table) = self.table else { return 0 };
        let latents = self.x.shape.elements();
        4 * (table.shape.elements() + latents + 2 * latents / self.x.shape.n * total) as u64
    }
}

/// The seed of the batch's first image, u32 `[1, 1, 1, 2]`, its low half first. Image `k` of a batch adds `k`.
fn philox_seed(rec: &mut Recorder, feed: &mut Feed) -> Slot {
    let slot = rec.input(Shape::vector(2), Element::U32);
    feed.add(move |job, run| {
        let seed = job.request.seed.wrapping_add(job.images.start as u64);
        run.write(slot, &[seed as u32, (seed >> 32) as u32])
    });
    slot
}

/// Writes start latents and the noise of every step, as a generator on the host draws them.
fn start_noise(job: &Job<'_>, run: &mut Run<'_>, stream: NoiseStream, x: Slot, table: Option<Slot>) -> Result<()> {
    let request = job.request;
    let all = Shape { n: request.images(), ..x.shape };
    let steps = table.map_or(0, |table| table.shape.n / x.shape.n);
    let noise = LatentNoise::of_request(request.noise, request.seed, stream, all, steps, job.images.clone());
    run.write(x, &noise.start)?;
    table.map_or(Ok(()), |table| run.write(table, &noise.steps))
}

/// Writes the start latents that are given.
fn start_given(job: &Job<'_>, run: &mut Run<'_>, index: usize, x: Slot) -> Result<()> {
    let Some(given) = [&job.inputs.start_c, &job.inputs.start_b][index] else { return Ok(()) };
    let all = Shape { n: job.request.images(), ..x.shape };
    if given.shape != all {
        return Err(Error::Request {
            what: ["start_c", "start_b"][index].into(),
            expected: format!("start latents {all} for the {} images of the request", all.n),
            found: given.shape.to_string(),
        });
    }
    let rows: Vec<usize> = job.images.clone().collect();
    run.write(x, &given.images(&rows))
}
