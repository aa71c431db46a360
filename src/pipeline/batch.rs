//! One batch through all stages.

use std::ops::Range;
use std::time::Instant;

use super::record::{Extent, Noise, Recorded, Sampler};
use super::run::{Run, crop, end_of, finite, noise_of, of_batch, write_times};
use super::{Batch, Intermediates, Options, Progress, Times};
use crate::error::Result;
use crate::image::Image;
use crate::model::Model;
use crate::noise::{NoiseGenerator, NoiseStream};
use crate::request::Request;
use crate::sampler;
use crate::shape::Shape;
use crate::sizes::StageSizes;
use crate::tokenizer::Encoding;

/// A batch being made: `images` of all those of the request.
pub(super) struct Job<'a, 'b> {
    pub(super) model: &'a Model,
    pub(super) request: &'a Request,
    /// Every prompt, then the negative one.
    pub(super) texts: &'a [Encoding],
    pub(super) images: Range<usize>,
    pub(super) extent: &'a Extent,
    pub(super) recorded: &'a Recorded,
    pub(super) run: Run<'a>,
    pub(super) options: &'a mut Options<'b>,
    /// Intermediate results that were kept.
    pub(super) tensors: Vec<(&'static str, Shape, Vec<f32>)>,
}

/// What tells the sampling stages apart.
struct Stage<'a> {
    name: &'static str,
    condition: &'static str,
    step: &'static str,
    result: &'static str,
    stream: NoiseStream,
    steps: usize,
    guided: bool,
    guidance: f32,
    sampler: &'a Sampler,
}

impl Job<'_, '_> {
    /// Text, Stage C, Stage B, Stage A.
    pub(super) fn make(mut self, times: &mut Times) -> Result<Batch> {
        let (request, extent, recorded) = (self.request, self.extent, self.recorded);
        let stage_c = Stage {
            name: "Stage C",
            condition: "condition_c",
            step: "step_c",
            result: "stage_c",
            stream: NoiseStream::StageC,
            steps: extent.steps[0],
            guided: extent.guided[0],
            guidance: request.guidance.0,
            sampler: &recorded.c,
        };
        let stage_b = Stage {
            name: "Stage B",
            condition: "condition_b",
            step: "step_b",
            result: "stage_b",
            stream: NoiseStream::StageB,
            steps: extent.steps[1],
            guided: extent.guided[1],
            guidance: request.guidance.1,
            sampler: &recorded.b,
        };
        let latents = self.options.latents;
        let start = Instant::now();
        self.text()?;
        self.run.settle(recorded.end)?;
        times.text += start.elapsed();

        let start = Instant::now();
        self.condition(&stage_c)?;
        self.sample(&stage_c, latents.stage_c.as_deref())?;
        self.run.settle(recorded.c.counter)?;
        times.stage_c += start.elapsed();

        let start = Instant::now();
        self.condition(&stage_b)?;
        finite(&mut self.run, recorded.not_finite[0], "Stage C", extent.steps[0], self.model)?;
        self.sample(&stage_b, latents.stage_b.as_deref())?;
        self.run.settle(recorded.b.counter)?;
        times.stage_b += start.elapsed();

        let start = Instant::now();
        let images = self.decode()?;
        times.stage_a += start.elapsed();
        Ok(Batch { first: self.images.start, images, intermediates: self.intermediates() })
    }

    fn prompt_of(&self, image: usize) -> usize {
        image / self.request.count as usize
    }

    /// Prompts of this batch.
    fn prompts(&self) -> Range<usize> {
        self.prompt_of(self.images.start)..self.prompt_of(self.images.end - 1) + 1
    }

    /// Runs the text encoder on the batch's prompts and, where anything is
    /// guided, the negative one after them.
    fn text(&mut self) -> Result<()> {
        (self.options.progress)(Progress::Begin("text", 1));
        let prompts = self.prompts();
        let mut encoded: Vec<&Encoding> = self.texts[prompts.clone()].iter().collect();
        if self.extent.texts > encoded.len() {
            encoded.push(&self.texts[self.request.prompts.len()]);
        }
        let ids: Vec<u32> = encoded.iter().flat_map(|e| e.ids.iter().copied()).collect();
        let lens: Vec<u32> = encoded.iter().map(|e| e.len as u32).collect();
        let (tokens, end_id) = (ids.len() / encoded.len(), self.model.text.1.eos_token_id);
        let end = |(i, e): (usize, &&Encoding)| (i * tokens + end_of(&e.ids, end_id)) as u32;
        let ends: Vec<u32> = encoded.iter().enumerate().map(end).collect();
        self.run.write(self.recorded.ids, &ids)?;
        self.run.write(self.recorded.key_len, &lens)?;
        self.run.write(self.recorded.end, &ends)?;
        self.run.segment("text")?;
        if self.options.keep {
            let text = self.recorded.text;
            for (name, slot) in [("text_states", text.states), ("text_pooled", text.pooled)] {
                let values = self.run.read_f32(slot)?;
                let row = values.len() / encoded.len();
                let of_image = |i: usize| &values[(self.prompt_of(i) - prompts.start) * row..][..row];
                let of_images = self.images.clone().flat_map(of_image).copied().collect();
                self.tensors.push((name, Shape { n: self.images.len(), ..slot.shape }, of_images));
            }
        }
        (self.options.progress)(Progress::Step);
        Ok(())
    }

    /// Computes what a stage's steps have in common.
    fn condition(&mut self, stage: &Stage<'_>) -> Result<()> {
        (self.options.progress)(Progress::Begin(stage.name, stage.steps));
        let prompts = self.prompts();
        let text_of = |i: usize| (self.prompt_of(i) - prompts.start) as u32;
        let mut texts: Vec<u32> = self.images.clone().map(text_of).collect();
        if stage.guided {
            // The negative prompt follows the others.
            texts.extend(vec![prompts.len() as u32; self.images.len()]);
        }
        self.run.write(stage.sampler.texts, &texts)?;
        if let Noise::Seed(slot) = stage.sampler.noise {
            let seed = self.request.seed.wrapping_add(self.images.start as u64);
            self.run.write(slot, &[seed as u32, (seed >> 32) as u32])?;
        }
        write_times(&mut self.run, stage.sampler, &sampler::ddpm(stage.steps as u32))?;
        self.run.segment(stage.condition)
    }

    /// Runs a stage's steps, from seeded noise or from `given` latents of all the request's images.
    fn sample(&mut self, stage: &Stage<'_>, given: Option<&[f32]>) -> Result<()> {
        let Stage { sampler, steps, .. } = *stage;
        let (request, total) = (self.request, self.request.images());
        if let Noise::Table(table) = sampler.noise {
            let mut generator = NoiseGenerator::new(request.noise, request.seed, stage.stream);
            let all = Shape { n: total, ..sampler.x.shape };
            let noise = noise_of(&mut generator, all, steps, self.images.clone());
            self.run.write(sampler.x, &noise.start)?;
            self.run.write(table, &noise.steps)?;
        }
        if let Some(given) = given {
            let start = of_batch(given, sampler.x.shape, total, self.images.clone(), stage.name)?;
            self.run.write(sampler.x, &start)?;
        }
        let coefficients = |s: &sampler::Step| [s.c0, s.c1, s.sigma, stage.guidance];
        let coefficients: Vec<f32> = sampler::ddpm(steps as u32).iter().flat_map(coefficients).collect();
        self.run.write(sampler.coefficients, &coefficients)?;
        self.run.write(sampler.counter, &[0u32])?;
        for _ in 0..steps {
            self.run.segment(stage.step)?;
            (self.options.progress)(Progress::Step);
        }
        if self.options.keep {
            self.tensors.push((stage.result, sampler.x.shape, self.run.read_f32(sampler.x)?));
        }
        Ok(())
    }

    /// Runs Stage A and fetches the pixels.
    fn decode(&mut self) -> Result<Vec<Image>> {
        (self.options.progress)(Progress::Begin("Stage A", 1));
        let (extent, recorded) = (self.extent, self.recorded);
        self.run.segment("decode")?;
        finite(&mut self.run, recorded.not_finite[1], "Stage B", extent.steps[1], self.model)?;
        finite(&mut self.run, recorded.not_finite[2], "Stage A", 1, self.model)?;
        let mut pixels = vec![0u8; recorded.rgb.shape.elements() * 4];
        self.run.program.read(recorded.rgb, &mut pixels)?;
        if self.options.keep {
            let picture = self.run.read_f32(recorded.picture)?;
            let sizes = StageSizes::for_image(extent.width, extent.height);
            let shape = recorded.rgb.shape.with_c(3);
            self.tensors.push(("image", shape, crop(&picture, sizes.image, shape)));
        }
        (self.options.progress)(Progress::Step);
        let image = |rgba: &[u8]| {
            let rgb = rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
            Image { width: extent.width as u32, height: extent.height as u32, rgb }
        };
        Ok(pixels.chunks(extent.width * extent.height * 4).map(image).collect())
    }

    fn intermediates(self) -> Option<Intermediates> {
        let tokens_of = |i: usize| self.texts[self.prompt_of(i)].ids.iter().copied();
        let tokens: Vec<u32> = self.images.clone().flat_map(tokens_of).collect();
        let shape = Shape::new(self.images.len(), 1, tokens.len() / self.images.len(), 1);
        self.options.keep.then_some(Intermediates { tokens: (shape, tokens), tensors: self.tensors })
    }
}
