//! Stage C, the prior: text to the latents of a small picture. Or latents that are given take its place.

use super::conditions::text::TextOfImages;
use super::conditions::{absent, control, image};
use super::key::{PlanKey, Until};
use super::observer::StageName;
use super::run::{Feed, Job, Run};
use super::sampling::{Kind, Sampling};
use super::stages::Stage;
use super::text::TextSlots;
use crate::error::Result;
use crate::model::Model;
use crate::net::unet::{Conditions, UNet};
use crate::net::{Net, previewer, slot};
use crate::noise::NoiseStream;
use crate::ops::{Element, ToRgb8};
use crate::plan::{Recorder, SegmentId, Slot};
use crate::shape::Shape;

pub(super) const KIND: Kind = Kind {
    stage: StageName::StageC,
    index: 0,
    stream: NoiseStream::StageC,
    segments: ["condition_c", "check_c"],
    steps: [["step_c", "reuse_c"], ["unguided_c", "unguided_reuse_c"]],
};

/// Stage C.
pub(crate) struct StageC {
    source: Source,
    is_result: bool,
}

/// Where its latents come from.
enum Source {
    Sampled(Box<Sampling>),
    Given(Slot, Feed),
}

impl StageC {
    /// Records the sampler, or an input where latents are given.
    pub fn record(rec: &mut Recorder, model: &Model, key: &PlanKey, text: TextSlots) -> Result<Self> {
        let config = &model.stage_c.1;
        let is_result = key.until == Until::StageC;
        if let Some((h, w)) = key.stage_c_given {
            let x = rec.input(Shape::new(key.images, h, w, config.out_channels), Element::F32);
            let mut feed = Feed::default();
            feed.add(move |job, run| {
                let given = job.inputs.stage_c.expect("Stage C's latents are given");
                let rows: Vec<usize> = job.images.clone().collect();
                run.write(x, &given.images(&rows))
            });
            return Ok(Self { source: Source::Given(x, feed), is_result });
        }
        let size = key.sizes().c;
        let previewer = if key.preview { Some(model.previewer()?) } else { None };
        let picture = previewer.map(|(weights, config)| {
            |rec: &mut Recorder, latents: Slot| {
                let mut net = Net::new(rec, weights);
                let x = previewer::preview(&mut net, *config, latents)?;
                net.op("to_rgb8", ToRgb8 { height: x.shape.h, width: x.shape.w }, &[slot(x)])
            }
        });
        let picture = picture.as_ref().map(|picture| picture as _);
        let sampling = Sampling::record(rec, &model.stage_c, key, &KIND, size, picture, |rec, feed, batch| {
            let text_of = TextOfImages::record(rec, feed, batch);
            let states = text.states.filter(|_| config.clip_text_in_channels.is_some());
            Ok(Conditions {
                times: Vec::new(),
                pooled: text_of.of(rec, text.pooled)?,
                text: states.map(|states| text_of.of(rec, states)).transpose()?,
                image: config.clip_image_in_channels.map(|c| image::record(rec, feed, batch, key.image_prompts, c)),
                effnet: None,
                additions: {
                    let blocks = UNet { config }.res_blocks(Shape::new(1, size.0, size.1, config.in_channels));
                    let of = |(i, numbers): (usize, &Vec<usize>)| {
                        let blocks: Vec<_> = numbers.iter().map(|number| blocks[*number].clone()).collect();
                        control::record(rec, feed, batch, i, &blocks)
                    };
                    key.control.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?.concat()
                },
                pixels: config.pixel_mapper_in_channels.map(|c| absent::record(rec, feed, Shape::vector(c))),
            })
        })?;
        Ok(Self { source: Source::Sampled(Box::new(sampling)), is_result })
    }

    /// Its result, `[n, h, w, 16]`.
    pub fn latents(&self) -> Slot {
        match &self.source {
            Source::Sampled(sampling) => sampling.x,
            Source::Given(x, _) => *x,
        }
    }
}

impl Stage for StageC {
    fn name(&self) -> StageName {
        KIND.stage
    }

    fn steps(&self, job: &Job<'_>) -> usize {
        match &self.source {
            Source::Sampled(sampling) => sampling.steps(job),
            Source::Given(..) => 0,
        }
    }

    fn segments(&self, job: &Job<'_>) -> Vec<(SegmentId, usize)> {
        match &self.source {
            Source::Sampled(sampling) => sampling.segments(job),
            Source::Given(..) => Vec::new(),
        }
    }

    fn run(&self, run: &mut Run<'_>) -> Result<()> {
        match &self.source {
            Source::Given(_, feed) => feed.write(run),
            Source::Sampled(sampling) => {
                sampling.run(run)?;
                if run.keep || self.is_result {
                    let latents = run.read(sampling.x)?;
                    if run.keep {
                        run.keep("stage_c", latents.clone());
                    }
                    run.results.stage_c = self.is_result.then_some(latents);
                }
                Ok(())
            }
        }
    }

    fn host_bytes(&self, total: usize) -> u64 {
        match &self.source {
            Source::Sampled(sampling) => sampling.host_bytes(total),
            Source::Given(..) => 0,
        }
    }
}
