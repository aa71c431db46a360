//! Sampling that begins with a picture, and may leave a part of it as it is.

use super::run::Run;
use crate::error::Result;
use crate::picture::repainted_latents;
use crate::plan::Slot;
use crate::sampler::Step;

/// The latents of the initial picture, for one batch.
pub(super) struct Beginning {
    /// `[n, h, w, c]`.
    latents: Vec<f32>,
    /// The start noise, of the same shape.
    noise: Vec<f32>,
    /// Which of the values stay as they are; none unless there is a mask.
    kept: Option<Vec<bool>>,
}

impl Beginning {
    /// Reads the start noise from `x`. `None` if no picture is given, or nothing of it is left at step `first`.
    pub fn of(run: &mut Run<'_>, x: Slot, first: usize) -> Result<Option<Self>> {
        let Some(init) = run.job.inputs.init.filter(|init| first > 0 || init.repaint.is_some()) else {
            return Ok(None);
        };
        let rows: Vec<usize> = run.job.images.clone().map(|image| image.min(init.latents.shape.n - 1)).collect();
        let kept = init.repaint.map(|repaint| {
            let repainted = repainted_latents(repaint.mask, (x.shape.h, x.shape.w));
            let of_image = repainted.iter().flat_map(|&new| vec![!new; x.shape.c]);
            of_image.collect::<Vec<bool>>().repeat(x.shape.n)
        });
        Ok(Some(Self { latents: init.latents.images(&rows), noise: run.read(x)?.values, kept }))
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
