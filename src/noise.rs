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
    /// torch's CPU generator drawing f32, as an f32 `diffusers` pipeline does.
    #[default]
    Torch,
    /// torch's CPU generator drawing bf16, as a bf16 `diffusers` pipeline does.
    TorchBf16,
    /// A counter-based generator. Image `k` of a request uses seed `seed + k`,
    /// so any image of a request can be generated again on its own.
    Philox,
}

impl NoiseKind {
    /// Every kind with its name.
    pub const NAMES: [(&'static str, NoiseKind); 3] =
        [("torch", NoiseKind::Torch), ("torch-bf16", NoiseKind::TorchBf16), ("philox", NoiseKind::Philox)];
}

impl FromStr for NoiseKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let named = NoiseKind::NAMES.iter().find(|(name, _)| *name == s);
        named.map(|&(_, kind)| kind).ok_or_else(|| format!("expected torch, torch-bf16 or philox, got `{s}`"))
    }
}

impl fmt::Display for NoiseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NoiseKind::Torch => "torch",
            NoiseKind::TorchBf16 => "torch-bf16",
            NoiseKind::Philox => "philox",
        })
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

/// The state of a generator.
///
/// `diffusers` examples pass a new generator to each of the two pipelines. To reproduce
/// code that shares one, pass the generator that drew Stage C's noise to Stage B.
#[derive(Debug, Clone)]
pub enum NoiseGenerator {
    /// See [`NoiseKind::Torch`].
    Torch(TorchGenerator),
    /// See [`NoiseKind::TorchBf16`].
    TorchBf16(TorchGenerator),
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
    /// A new generator.
    pub fn new(kind: NoiseKind, seed: u64, stream: NoiseStream) -> Self {
        match kind {
            NoiseKind::Torch => NoiseGenerator::Torch(TorchGenerator::new(seed)),
            NoiseKind::TorchBf16 => NoiseGenerator::TorchBf16(TorchGenerator::new(seed)),
            NoiseKind::Philox => NoiseGenerator::Philox { seed, stream: stream as u32, draw: 0 },
        }
    }

    /// Appends one draw of standard normal values for the images `[n, h, w, c]` to `out`.
    ///
    /// torch fills one tensor `[n, c, h, w]` for the whole batch, as `diffusers`
    /// does, so an image's noise depends on the batch. Philox numbers the elements of each
    /// image in the order `[h, w, c]`.
    pub fn draw(&mut self, shape: Shape, out: &mut Vec<f32>) {
        let mut z = vec![0.0; shape.elements()];
        match self {
            NoiseGenerator::Torch(generator) => generator.normal_f32(&mut z),
            NoiseGenerator::TorchBf16(generator) => generator.normal_bf16(&mut z),
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
        let mut noise = Self { shape, start: Vec::new(), steps: Vec::with_capacity(steps * shape.elements()) };
        generator.draw(shape, &mut noise.start);
        for _ in 0..steps {
            generator.draw(shape, &mut noise.steps);
        }
        noise
    }

    /// Like [`draw`](Self::draw), but keeps only the noise of `images`. The noise of the whole batch must be drawn
    /// nevertheless, because torch draws it at once; discarding the rest immediately saves memory.
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

    #[test]
    fn draws_continue_and_become_channels_last() {
        let shape = Shape::new(2, 3, 5, 4);
        let mut generator = NoiseGenerator::new(NoiseKind::Torch, 9, NoiseStream::StageC);
        let noise = LatentNoise::draw(&mut generator, shape, 2);
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

    #[test]
    fn philox_images_stand_alone() {
        let draw = |n, seed| {
            let mut generator = NoiseGenerator::new(NoiseKind::Philox, seed, NoiseStream::StageB);
            LatentNoise::draw(&mut generator, Shape::new(n, 3, 3, 3), 2)
        };
        assert_eq!(draw(3, u64::MAX).images(2..3), draw(1, 1));
        let noise = draw(1, 5);
        assert_eq!(noise.steps[27 + 4..27 + 8], Philox::new(5).normals([1, 2, 1, 0]));
    }

    #[test]
    fn images_are_drawn_as_in_the_whole_batch() {
        let shape = Shape::new(5, 3, 2, 4);
        for (_, kind) in NoiseKind::NAMES {
            let generator = || NoiseGenerator::new(kind, 3, NoiseStream::StageB);
            let all = LatentNoise::draw(&mut generator(), shape, 4);
            assert_eq!(LatentNoise::draw_images(&mut generator(), shape, 4, 1..3), all.images(1..3), "{kind}");
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
