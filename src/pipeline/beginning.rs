//! Sampling that begins with latents, and may leave a part of them as it is.

use std::ops::Range;

use super::inputs::{Init, Repaint};
use super::run::Run;
use crate::error::Result;
use crate::picture::repainted_latents;
use crate::plan::Slot;
use crate::sampler::Step;

/// What Stage C begins with besides noise, for one batch.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    /// Latents of every image of the batch, `[n, h, w, c]`.
    pub latents: Vec<f32>,
    /// How much of them is to change, see [`Init::strength`].
    pub strength: f32,
    /// Where alone they are to change.
    pub repaint: Option<Repaint<'a>>,
}

impl<'a> Begun<'a> {
    /// What is given for these images.
    pub fn of(init: Init<'a>, images: Range<usize>) -> Self {
        let rows: Vec<usize> = images.map(|image| image.min(init.latents.shape.n - 1)).collect();
        Self { latents: init.latents.images(&rows), strength: init.strength, repaint: init.repaint }
    }
}

/// The same with the noise that belongs to a step.
pub(super) struct Beginning<'a> {
    /// `[n, h, w, c]`.
    latents: &'a [f32],
    /// The start noise, of the same shape.
    noise: Vec<f32>,
    /// Which of the values stay as they are; none unless there is a mask.
    kept: Option<Vec<bool>>,
}

impl<'a> Beginning<'a> {
    /// Reads the start noise from `x`. `None` if nothing is given, or nothing of it is left at step `first`.
    pub fn of(run: &mut Run<'a>, x: Slot, first: usize) -> Result<Option<Self>> {
        let Some(begun) = run.job.begun.filter(|begun| first > 0 || begun.repaint.is_some()) else {
            return Ok(None);
        };
        let kept = begun.repaint.map(|repaint| {
            let repainted = repainted_latents(repaint.mask, (x.shape.h, x.shape.w));
            let of_image = repainted.iter().flat_map(|&new| vec![!new; x.shape.c]);
            of_image.collect::<Vec<bool>>().repeat(x.shape.n)
        });
        Ok(Some(Self { latents: &begun.latents, noise: run.read(x)?.values, kept }))
    }

    /// The latents, with as much noise as belongs to a step: none after the last.
    fn at(&self, step: Option<&Step>) -> impl Iterator<Item = f32> {
        // The clean latents are a·x + b·ε.
        let [a, b] = step.map_or([1.0, 0.0], |step| step.clean);
        self.latents.iter().zip(&self.noise).map(move |(latent, noise)| (latent - b * noise) / a)
    }

    /// Begins with this step.
    pub fn begin(&self, run: &mut Run<'_>, x: Slot, step: Option<&Step>) -> Result<()> {
        run.write(x, &self.at(step).collect::<Vec<f32>>())
    }

    /// Puts what stays as it is in its place again, before a step, or after the last.
    pub fn keep(&self, run: &mut Run<'_>, x: Slot, step: Option<&Step>) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let mut values = run.read(x)?.values;
        for ((value, of_picture), kept) in values.iter_mut().zip(self.at(step)).zip(kept) {
            *value = if *kept { of_picture } else { *value };
        }
        run.write(x, &values)
    }
}
