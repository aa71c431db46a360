//! Seeded normal noise: the start latents, and the noise of every sampling step.
//!
//! [`NoiseKind::Torch`] and [`NoiseKind::TorchBf16`] reproduce what a `diffusers`
//! pipeline draws from a CPU generator. That generator is sequential, so the host draws
//! the noise of all steps before the first. [`NoiseKind::Philox`] is drawn on the device by the op
//! `philox`; this module defines it.

mod mt19937;
mod philox;
mod polynomial;
mod simd;
mod torch;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use mt19937::Mt19937;
pub use philox::Philox;
pub use torch::TorchGenerator;

use crate::shape::Shape;

/// Where noise comes from (`--noise`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseKind {
    /// torch's CPU generator drawing f32, as an f32 `diffusers` pipeline does: one generator for each image, as
    /// with a list of them in `diffusers`. Image `k` of a request has the seed `seed + k`.
    #[default]
    Torch,
    /// The same drawing bf16, as a bf16 `diffusers` pipeline does.
    TorchBf16,
    /// One generator of torch that draws f32 for all images of the request, as with one generator in `diffusers`.
    /// An image's noise then depends on how many there are.
    TorchBatch,
    /// The same drawing bf16.
    TorchBatchBf16,
    /// A counter-based generator for each image, with the seed `seed + k`, which the device evaluates.
    Philox,
}

impl NoiseKind {
    /// Every kind with its name.
    pub const NAMES: [(&'static str, NoiseKind); 5] = [
        ("torch", NoiseKind::Torch),
        ("torch-bf16", NoiseKind::TorchBf16),
        ("torch-batch", NoiseKind::TorchBatch),
        ("torch-batch-bf16", NoiseKind::TorchBatchBf16),
        ("philox", NoiseKind::Philox),
    ];

    /// Whether one generator serves all images of a request, so that none has a seed of its own.
    pub fn is_of_batch(self) -> bool {
        matches!(self, NoiseKind::TorchBatch | NoiseKind::TorchBatchBf16)
    }
}

impl FromStr for NoiseKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let named = NoiseKind::NAMES.iter().find(|(name, _)| *name == s);
        let names = NoiseKind::NAMES.map(|(name, _)| name).join(", ");
        named.map(|&(_, kind)| kind).ok_or_else(|| format!("expected one of {names}, got `{s}`"))
    }
}

impl fmt::Display for NoiseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NoiseKind::NAMES.iter().find(|(_, kind)| kind == self);
        f.pad(named.map_or("", |(name, _)| name))
    }
}

/// Which sampler the noise is for. It selects the Philox stream, so that the two samplers
/// draw different numbers. torch's generator has no streams: there, equal seeds give both
/// samplers equal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoiseStream {
    /// Stage C.
    StageC = 0,
    /// Stage B.
    StageB = 1,
}

/// The generators of one sampler.
///
/// `diffusers` examples pass a new generator to each of the two pipelines. To reproduce
/// code that shares one, pass the generator that drew Stage C's noise to Stage B.
#[derive(Debug, Clone)]
pub enum NoiseGenerator {
    /// torch's, which draw f32.
    Torch(Vec<TorchGenerator>),
    /// torch's, which draw bf16.
    TorchBf16(Vec<TorchGenerator>),
    /// See [`NoiseKind::Philox`].
    Philox {
        /// Seed of the first image; image `k` uses this plus `k`, wrapping.
        seed: u64,
        /// Third word of the counter.
        stream: u32,
        /// Second word of the counter: the number of draws so far.
        draw: u32,
    },
}

impl NoiseGenerator {
    /// New generators for some images of a request with this seed. Kinds with one generator for all images draw
    /// for all.
    pub fn new(kind: NoiseKind, seed: u64, stream: NoiseStream, images: Range<usize>) -> Self {
        let own = || images.clone().map(|k| TorchGenerator::new(seed.wrapping_add(k as u64))).collect();
        let shared = || vec![TorchGenerator::new(seed)];
        match kind {
            NoiseKind::Torch => NoiseGenerator::Torch(own()),
            NoiseKind::TorchBf16 => NoiseGenerator::TorchBf16(own()),
            NoiseKind::TorchBatch => NoiseGenerator::Torch(shared()),
            NoiseKind::TorchBatchBf16 => NoiseGenerator::TorchBf16(shared()),
            NoiseKind::Philox => {
                let seed = seed.wrapping_add(images.start as u64);
                NoiseGenerator::Philox { seed, stream: stream as u32, draw: 0 }
            }
        }
    }

    /// Appends one draw of standard normal values for the images `[n, h, w, c]` to `out`.
    ///
    /// A generator of torch fills one tensor `[n, c, h, w]` for as many images as fall to it: one, or the whole
    /// batch. Philox numbers the elements of each image in the order `[h, w, c]`.
    pub fn draw(&mut self, shape: Shape, out: &mut Vec<f32>) {
        let mut z = vec![0.0; shape.elements()];
        let share = |generators: &[TorchGenerator]| (shape.elements() / generators.len().max(1)).max(1);
        match self {
            NoiseGenerator::Torch(all) => {
                let parts = z.chunks_mut(share(all));
                all.iter_mut().zip(parts).for_each(|(generator, z)| generator.normal_f32(z));
            }
            NoiseGenerator::TorchBf16(all) => {
                let parts = z.chunks_mut(share(all));
                all.iter_mut().zip(parts).for_each(|(generator, z)| generator.normal_bf16(z));
            }
            NoiseGenerator::Philox { seed, stream, draw } => {
                for (k, image) in z.chunks_mut(shape.tokens() * shape.c).enumerate() {
                    Philox::new(seed.wrapping_add(k as u64)).fill(*stream, *draw, image);
                }
                *draw += 1;
                return out.extend(z);
            }
        }
        nchw_to_nhwc(&z, shape, out);
    }
}

/// All noise of one sampler for a batch, in channels-last layout.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentNoise {
    /// Extent `[n, h, w, c]` of one draw.
    pub shape: Shape,
    /// Start latents `[n, h, w, c]`.
    pub start: Vec<f32>,
    /// Noise added after each step, `[steps][n, h, w, c]`. The last step's noise has no
    /// effect (its sigma is zero), but is drawn because `diffusers` draws it.
    pub steps: Vec<f32>,
}

impl LatentNoise {
    /// Draws the start latents, then the noise of each of `steps` steps.
    pub fn draw(generator: &mut NoiseGenerator, shape: Shape, steps: usize) -> Self {
        Self::draw_images(generator, shape, steps, 0..shape.n)
    }

    /// Like [`draw`](Self::draw), but keeps only the noise of `images`, and discards the rest immediately, which saves
    /// memory where one generator draws for all images at once.
    ///
    /// # Panics
    /// If the range is not within the batch.
    pub fn draw_images(generator: &mut NoiseGenerator, shape: Shape, steps: usize, images: Range<usize>) -> Self {
        let image = shape.tokens() * shape.c;
        let mut all = Vec::with_capacity(shape.elements());
        let mut draw = |kept: &mut Vec<f32>| {
            all.clear();
            generator.draw(shape, &mut all);
            kept.extend_from_slice(&all[images.start * image..images.end * image]);
        };
        let (mut start, mut later) = (Vec::new(), Vec::with_capacity(steps * images.len() * image));
        draw(&mut start);
        (0..steps).for_each(|_| draw(&mut later));
        Self { shape: Shape { n: images.len(), ..shape }, start, steps: later }
    }

    /// The noise of some `images` of a request for `shape.n` of them.
    ///
    /// # Panics
    /// If the range is not within the request.
    pub fn of_request(
        kind: NoiseKind,
        seed: u64,
        stream: NoiseStream,
        shape: Shape,
        steps: usize,
        images: Range<usize>,
    ) -> Self {
        let mut generator = NoiseGenerator::new(kind, seed, stream, images.clone());
        match kind.is_of_batch() {
            true => Self::draw_images(&mut generator, shape, steps, images),
            false => Self::draw(&mut generator, Shape { n: images.len(), ..shape }, steps),
        }
    }

    /// The noise of a range of images, for a batch that is processed in parts.
    ///
    /// # Panics
    /// If the range is not within the batch.
    pub fn images(&self, images: Range<usize>) -> LatentNoise {
        let batch = self.shape.elements();
        let image = batch / self.shape.n;
        let part = images.start * image..images.end * image;
        LatentNoise {
            shape: Shape { n: images.len(), ..self.shape },
            start: self.start[part.clone()].to_vec(),
            steps: self.steps.chunks(batch).flat_map(|step| &step[part.clone()]).copied().collect(),
        }
    }
}

/// Appends `z` `[n, c, h, w]` to `out` as `[n, h, w, c]`.
fn nchw_to_nhwc(z: &[f32], shape: Shape, out: &mut Vec<f32>) {
    let tokens = shape.tokens();
    for image in 0..shape.n {
        let image = &z[image * shape.c * tokens..][..shape.c * tokens];
        for token in 0..tokens {
            out.extend((0..shape.c).map(|c| image[c * tokens + token]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(kind: NoiseKind, seed: u64, n: usize, images: Range<usize>) -> LatentNoise {
        LatentNoise::of_request(kind, seed, NoiseStream::StageB, Shape::new(n, 3, 5, 4), 2, images)
    }

    #[test]
    fn draws_continue_and_become_channels_last() {
        let noise = noise(NoiseKind::TorchBatch, 9, 2, 0..2);
        assert_eq!((noise.start.len(), noise.steps.len()), (120, 240));

        let mut plain = TorchGenerator::new(9);
        let mut draw = || {
            let mut z = vec![0.0; 120];
            plain.normal_f32(&mut z);
            z
        };
        let (start, first) = (draw(), draw());
        for (n, c, y, x) in [(0, 0, 0, 0), (0, 3, 2, 4), (1, 2, 1, 3)] {
            let (nchw, nhwc) = (((n * 4 + c) * 3 + y) * 5 + x, ((n * 3 + y) * 5 + x) * 4 + c);
            assert_eq!((noise.start[nhwc], noise.steps[nhwc]), (start[nchw], first[nchw]));
        }
        let second = noise.images(1..2);
        assert_eq!(
            (second.shape.n, &second.start[..], &second.steps[60..]),
            (1, &noise.start[60..], &noise.steps[180..])
        );
    }

    /// Image `k` has the noise of a request for one image with the seed `seed + k`, except where one generator
    /// draws for all.
    #[test]
    fn images_stand_alone() {
        for (_, kind) in NoiseKind::NAMES {
            let of_three = noise(kind, u64::MAX, 3, 0..3).images(2..3);
            assert_eq!(of_three == noise(kind, 1, 1, 0..1), !kind.is_of_batch(), "{kind}");
        }
        let noise = noise(NoiseKind::Philox, 5, 1, 0..1);
        assert_eq!(noise.steps[60 + 4..60 + 8], Philox::new(5).normals([1, 2, 1, 0]));
    }

    /// What is made in several batches, or alone, has the noise that it would have in one.
    #[test]
    fn batches_do_not_change_noise() {
        for (_, kind) in NoiseKind::NAMES {
            let all = noise(kind, 3, 5, 0..5);
            for images in [0..1, 1..3, 3..5, 0..5] {
                assert_eq!(noise(kind, 3, 5, images.clone()), all.images(images), "{kind}");
            }
        }
    }

    #[test]
    fn names() {
        for (name, kind) in NoiseKind::NAMES {
            assert_eq!((name.parse(), kind.to_string().as_str()), (Ok(kind), name));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{name}\""));
        }
        assert!("cuda".parse::<NoiseKind>().unwrap_err().contains("torch-bf16"));
    }
}
