//! The whole road from token ids to pixels, recorded as one plan.
//!
//! | segment         | runs                | holds                                              |
//! |---------------|---------------------|----------------------------------------------------|
//! | `text`        | once per prompt     | the CLIP text tower                                |
//! | `condition_c` | once per prompt     | Stage C's context keys and values, timestep tables |
//! | `step_c`      | per step of Stage C | the network, guidance, the sampler's update        |
//! | `condition_b` | once per image      | the same for Stage B, and Stage C's result         |
//! | `step_b`      | per step of Stage B | the network, guidance, the sampler's update        |
//! | `decode`      | once per image      | Stage A, conversion to bytes                       |

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{Device, Kind};
use crate::error::Result;
use crate::model::Model;
use crate::net::config::UNetConfig;
use crate::net::unet::{Conditions, UNet};
use crate::net::{Net, clip, slot, stage_a};
use crate::noise::{NoiseKind, NoiseStream};
use crate::ops::{Advance, Concat, CountNonFinite, Denoise, Element, Gather, Philox, Scale, ToRgb8};
use crate::plan::{Plan, Recorder, Slot};
use crate::request::Request;
use crate::shape::Shape;
use crate::sizes::StageSizes;
use crate::weights::Checkpoint;

/// What a plan depends on besides the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Images made at once.
    pub images: usize,
    /// Different texts, negative ones included.
    pub texts: usize,
    /// Pixels of the picture.
    pub width: usize,
    /// Pixels of the picture.
    pub height: usize,
    /// Sampling steps of Stage C and Stage B.
    pub steps: [usize; 2],
    /// Whether Stage C and Stage B are guided.
    pub guided: [bool; 2],
    /// Whether noise is made on the device.
    pub philox: bool,
    /// Whether intermediate results stay readable.
    pub keep: bool,
}

impl Extent {
    /// What `images` of all those of a request take.
    pub fn of(request: &Request, images: Range<usize>, keep: bool) -> Self {
        let count = request.count as usize;
        let prompts = (images.end - 1) / count - images.start / count + 1;
        // As in diffusers, guidance is on above 1.
        let guided = [request.guidance.0 > 1.0, request.guidance.1 > 1.0];
        Self {
            images: images.len(),
            texts: prompts + usize::from(guided.contains(&true)),
            width: request.width as usize,
            height: request.height as usize,
            steps: [request.steps.0 as usize, request.steps.1 as usize],
            guided,
            philox: request.noise == NoiseKind::Philox,
            keep,
        }
    }

    /// How often a segment runs for one batch.
    pub fn repeats(&self, segment: &str) -> usize {
        let of_stage = [&STAGE_C, &STAGE_B].into_iter().find(|stage| stage.step == segment);
        of_stage.map_or(1, |stage| self.steps[stage.index])
    }
}

/// Where a sampler's noise comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// The host: noise of every step, `[steps·n, h, w, c]`, and the start latents.
    Table(Slot),
    /// The device, from the seed of the batch's first image, u32 `[1, 1, 1, 2]`, its low half first.
    Seed(Slot),
}

/// What the host writes, and may read, of one of the two samplers.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Latents `[n, h, w, c]`: start noise before the first step, the result after the last. The host may
    /// write them in either case.
    pub x: Slot,
    /// Where its noise comes from.
    pub noise: Noise,
    /// `c₀, c₁, σ, g` of every step, `[1, 1, steps, 4]`.
    pub coefficients: Slot,
    /// The step, u32.
    pub counter: Slot,
    /// Text of each image (guided: conditional ones first), u32 `[1, 1, 1, n or 2n]`.
    pub texts: Slot,
    /// Embedding of each step's timestep, then of zero for every extra condition.
    pub times: Vec<Slot>,
    /// Conditions that are absent: the host writes zeros.
    pub zeros: Vec<Slot>,
}

/// A plan and the slots that the host touches.
#[derive(Debug)]
pub struct Recorded {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Token ids `[texts, 1, t, 1]`.
    pub ids: Slot,
    /// Tokens of each text that are not padding.
    pub key_len: Slot,
    /// Row of each text's end token.
    pub end: Slot,
    /// States and pooled vector of each text.
    pub text: clip::TextStates,
    /// Stage C's sampler.
    pub c: Sampler,
    /// Stage B's sampler.
    pub b: Sampler,
    /// Values of each stage's result that are not finite, u32: Stage C's readable
    /// after `condition_b`, Stage B's and Stage A's after `decode`.
    pub not_finite: [Slot; 3],
    /// Pictures as real numbers, `[n, 4·h, 4·w, 3]`, not cropped.
    pub picture: Slot,
    /// Pictures as packed pixels, `[n, height, width, 1]`.
    pub rgb: Slot,
}

impl Recorded {
    /// Memory that must be free at once: activations, and the weights of one segment where they are
    /// copied to the device.
    pub fn least_bytes(&self, total: usize, device: &Device) -> u64 {
        let weights = if device.copies_weights { self.plan.segment_weight_bytes(device.stores_bf16()) } else { 0 };
        self.activation_bytes(total, device) + weights
    }

    /// Memory of the device for activations. On the CPU that is the host's, which besides holds what it
    /// fills them with: a batch's noise, one draw for all `total` images of the run, pixels.
    pub fn activation_bytes(&self, total: usize, device: &Device) -> u64 {
        if device.kind != Kind::Cpu {
            return self.plan.arena_bytes();
        }
        let noise = |sampler: &Sampler| {
            let (latents, Noise::Table(table)) = (sampler.x.shape.elements(), sampler.noise) else { return 0 };
            table.shape.elements() + latents + 2 * latents / sampler.x.shape.n * total
        };
        let host = noise(&self.c).max(noise(&self.b)).max(2 * self.rgb.shape.elements());
        self.plan.arena_bytes() + 4 * host as u64
    }
}

/// Records the plan for `extent`.
pub fn record(model: &Model, extent: &Extent) -> Result<Recorded> {
    let mut rec = Recorder::new();
    let sizes = StageSizes::for_image(extent.width, extent.height);

    rec.segment("text");
    let (weights, config) = &model.text;
    let tokens = config.max_position_embeddings;
    let ids = rec.input(Shape::new(extent.texts, 1, tokens, 1), Element::U32);
    let key_len = rec.input(Shape::vector(extent.texts), Element::U32);
    let end = rec.input(Shape::vector(extent.texts), Element::U32);
    let text = clip::text(&mut Net::new(&mut rec, weights), config, ids, key_len, end)?;

    rec.segment("condition_c");
    let c = sample(&mut rec, &model.stage_c, &STAGE_C, extent, sizes.c, text, None)?;
    rec.segment("condition_b");
    let c_not_finite = rec.node("finite", CountNonFinite, &[slot(c.x)])?;
    let b = sample(&mut rec, &model.stage_b, &STAGE_B, extent, sizes.b, text, Some(c.x))?;

    rec.segment("decode");
    let (weights, config) = &model.stage_a;
    let mut net = Net::new(&mut rec, weights);
    let b_not_finite = net.op("finite", CountNonFinite, &[slot(b.x)])?;
    let z = net.op("scale_factor", Scale { factor: config.scale_factor }, &[slot(b.x)])?;
    let picture = stage_a::decode(&mut net, config, z, false)?;
    let not_finite = [c_not_finite, b_not_finite, net.op("finite", CountNonFinite, &[slot(picture)])?];
    let rgb = net.op("to_rgb8", ToRgb8 { height: extent.height, width: extent.width }, &[slot(picture)])?;
    rec.keep(rgb);
    not_finite.iter().for_each(|s| rec.keep(*s));
    if extent.keep {
        [text.states, text.pooled, picture].into_iter().for_each(|s| rec.keep(s));
    }
    Ok(Recorded { plan: Arc::new(rec.finish()), ids, key_len, end, text, c, b, not_finite, picture, rgb })
}

/// How a sampling stage is told apart from the other.
struct Stage {
    index: usize,
    step: &'static str,
    stream: NoiseStream,
}

const STAGE_C: Stage = Stage { index: 0, step: "step_c", stream: NoiseStream::StageC };
const STAGE_B: Stage = Stage { index: 1, step: "step_b", stream: NoiseStream::StageB };

/// Records a sampler on latents of `size` (height, width): its conditions in the
/// segment at hand, its steps in one of their own.
fn sample(
    rec: &mut Recorder,
    (weights, config): &(Checkpoint, UNetConfig),
    stage: &Stage,
    extent: &Extent,
    size: (usize, usize),
    text: clip::TextStates,
    stage_c: Option<Slot>,
) -> Result<Sampler> {
    let (steps, guided) = (extent.steps[stage.index], extent.guided[stage.index]);
    // Guidance doubles the batch: conditional images first, then unconditional ones.
    let batch = extent.images * if guided { 2 } else { 1 };
    let latents = Shape::new(extent.images, size.0, size.1, config.in_channels);
    let mut zeros = Vec::new();
    let mut zero = |rec: &mut Recorder, shape| {
        zeros.push(rec.input(shape, Element::F32));
        zeros[zeros.len() - 1]
    };

    let texts = rec.input(Shape::vector(batch), Element::U32);
    let times = Shape::matrix(steps, config.timestep_ratio_embedding_dim);
    let times: Vec<Slot> =
        (0..=config.timestep_conditioning_type.len()).map(|_| rec.input(times, Element::F32)).collect();
    // Every image gets its text.
    let pick = |rec: &mut Recorder, x: Slot| -> Result<Slot> {
        let Shape { n, h, w, c } = x.shape;
        let rows = x.reshape(Shape::new(n, 1, 1, h * w * c));
        let picked = rec.node("texts", Gather, &[slot(rows), slot(texts)])?;
        Ok(picked.reshape(Shape::new(batch, h, w, c)))
    };
    let conditions = Conditions {
        times: times.clone(),
        pooled: pick(rec, text.pooled)?,
        text: config.clip_text_in_channels.map(|_| pick(rec, text.states)).transpose()?,
        image: config.clip_image_in_channels.map(|c| zero(rec, Shape::new(batch, 1, 1, c))),
        effnet: match stage_c.filter(|_| config.effnet_in_channels.is_some()) {
            Some(x) if guided => {
                let none = zero(rec, x.shape);
                Some(rec.node("effnet", Concat::Images, &[slot(x), slot(none)])?)
            }
            x => x,
        },
        pixels: config.pixel_mapper_in_channels.map(|c| zero(rec, Shape::vector(c))),
    };
    let unet = UNet { config };
    let conditioned = unet.condition(&mut Net::new(rec, weights), &conditions, latents)?;
    let seed = extent.philox.then(|| rec.input(Shape::vector(2), Element::U32));
    let philox = Philox { shape: latents, stream: stage.stream as u32 };
    let start = seed.map(|seed| rec.node("noise", philox, &[slot(seed), None])).transpose()?;

    rec.segment(stage.step);
    let x = start.unwrap_or_else(|| rec.input(latents, Element::F32));
    let coefficients = rec.input(Shape::matrix(steps, 4), Element::F32);
    let counter = rec.input(Shape::vector(1), Element::U32);
    let input = if guided { rec.node("guidance", Concat::Images, &[slot(x), slot(x)])? } else { x };
    let eps = unet.step(&mut Net::new(rec, weights), input, &conditioned, counter)?;
    let (noise, z) = match seed {
        Some(seed) => (Noise::Seed(seed), rec.node("noise", philox, &[slot(seed), slot(counter)])?),
        None => {
            let table = rec.input(Shape { n: steps * extent.images, ..latents }, Element::F32);
            (Noise::Table(table), table)
        }
    };
    let inputs = [slot(x), slot(eps), slot(z), slot(coefficients), slot(counter)];
    rec.update("sampler", Denoise { guided }, &inputs, x)?;
    rec.update("sampler", Advance, &[slot(counter)], counter)?;
    Ok(Sampler { x, noise, coefficients, counter, texts, times, zeros })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::cpu::Cpu;
    use crate::noise::{LatentNoise, NoiseGenerator};
    use crate::weights::{ModelPaths, Overrides};

    /// Start latents, and the noise of each step, which is all that is left of `x` where `c₀` is 0 and σ is 1.
    #[test]
    fn noise_of_the_device_is_that_of_the_definition() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny").into();
        let model = Model::open(&ModelPaths::find(Some(&folder), None, &Overrides::default()).unwrap()).unwrap();
        let request = Request { prompts: vec![String::new()], count: 5, steps: (2, 3), ..Request::default() };
        let request = Request { width: 128, height: 64, noise: NoiseKind::Philox, seed: u64::MAX - 2, ..request };
        let (images, steps) = (1..4, [request.steps.0 as usize, request.steps.1 as usize]);
        let recorded = record(&model, &Extent::of(&request, images.clone(), false)).unwrap();
        let mut program = Cpu::new(false).compile(recorded.plan.clone()).unwrap();
        for (sampler, stage) in [(&recorded.c, &STAGE_C), (&recorded.b, &STAGE_B)] {
            let all = Shape { n: request.images(), ..sampler.x.shape };
            let mut generator = NoiseGenerator::new(request.noise, request.seed, stage.stream);
            let want = LatentNoise::draw(&mut generator, all, steps[stage.index]).images(images.clone());

            let Noise::Seed(slot) = sampler.noise else { panic!("it is made on the device") };
            let seed = request.seed.wrapping_add(images.start as u64);
            program.write(slot, bytemuck::cast_slice(&[seed as u32, (seed >> 32) as u32])).unwrap();
            program.run(recorded.plan.segment(["condition_c", "condition_b"][stage.index])).unwrap();
            let mut x = vec![0f32; sampler.x.shape.elements()];
            program.read(sampler.x, bytemuck::cast_slice_mut(&mut x)).unwrap();
            assert!(x == want.start, "{}: start", stage.step);
            let coefficients = [0.0f32, 0.0, 1.0, 1.0].repeat(steps[stage.index]);
            program.write(sampler.coefficients, bytemuck::cast_slice(&coefficients)).unwrap();
            program.write(sampler.counter, &[0; 4]).unwrap();
            for (i, noise) in want.steps.chunks(x.len()).enumerate() {
                program.run(recorded.plan.segment(stage.step)).unwrap();
                program.read(sampler.x, bytemuck::cast_slice_mut(&mut x)).unwrap();
                assert!(x == noise, "{}: step {i}", stage.step);
            }
        }
    }
}
