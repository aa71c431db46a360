//! What running a plan needs around it: filling slots, reading results, checking them.

use std::ops::Range;

use super::record::Sampler;
use crate::backend::Program;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::noise::{LatentNoise, NoiseGenerator};
use crate::plan::{Plan, Slot};
use crate::sampler;
use crate::shape::Shape;

/// Position of the end token: the first of its id; with the id 2 of old configurations, the largest id.
pub(super) fn end_of(ids: &[u32], end_id: u32) -> usize {
    let wanted = if end_id == 2 { ids.iter().copied().max().unwrap_or(0) } else { end_id };
    ids.iter().position(|&id| id == wanted).unwrap_or(0)
}

/// Timestep embeddings of every step, and zeros where no condition is given.
pub(super) fn write_times(run: &mut Run<'_>, sampler: &Sampler, schedule: &[sampler::Step]) -> Result<()> {
    for (i, slot) in sampler.times.iter().enumerate() {
        let r = |step: &sampler::Step| if i == 0 { step.r } else { 0.0 };
        let rows: Vec<f32> = schedule.iter().flat_map(|s| sampler::timestep_embedding(r(s), slot.shape.c)).collect();
        run.write(*slot, &rows)?;
    }
    sampler.zeros.iter().try_for_each(|slot| run.write(*slot, &vec![0f32; slot.shape.elements()]))
}

/// The part of user-given latents that belongs to `images`.
pub(super) fn of_batch(all: &[f32], shape: Shape, total: usize, images: Range<usize>, stage: &str) -> Result<Vec<f32>> {
    let image = shape.elements() / shape.n;
    if all.len() != image * total {
        return Err(Error::Request {
            what: format!("--latents, {stage}"),
            expected: format!("{} values for {total} images of [{}, {}, {}]", image * total, shape.c, shape.h, shape.w),
            found: format!("{}", all.len()),
        });
    }
    Ok(all[images.start * image..images.end * image].to_vec())
}

/// A stage's result must be finite; if not, says whether weights are to blame:
/// its own, or those of the stages before it.
pub(super) fn finite(run: &mut Run<'_>, count: Slot, stage: &'static str, steps: usize, model: &Model) -> Result<()> {
    let mut bytes = [0; 4];
    run.program.read(count, &mut bytes)?;
    let count = u32::from_le_bytes(bytes);
    if count == 0 {
        return Ok(());
    }
    let after = if steps == 1 { " after 1 step".into() } else { format!(" after {steps} steps") };
    for weights in [&model.text.0, &model.stage_c.0, &model.stage_b.0, &model.stage_a.0] {
        if let Some((name, _)) = weights.first_non_finite() {
            return Err(Error::Tensor {
                path: weights.path.clone(),
                name: name.to_owned(),
                expected: "finite numbers".into(),
                found: format!(
                    "NaN or infinity, so that {stage} produced {count} values that are not finite{after}; the file is damaged, download it again"
                ),
            });
        }
    }
    let remedy = "the weights are finite; try --dtype f32, or less guidance".into();
    Err(Error::NotFinite { stage, count, after, remedy })
}

/// Noise of some images out of a run's `shape.n`. All of it has to be drawn,
/// because torch draws batch by batch; only theirs is kept.
pub(super) fn noise_of(
    generator: &mut NoiseGenerator,
    shape: Shape,
    steps: usize,
    images: Range<usize>,
) -> LatentNoise {
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
    LatentNoise { shape: Shape { n: images.len(), ..shape }, start, steps: later }
}

/// Rows and columns of `[n, h, w, 3]` pictures that belong to the size asked for.
pub(super) fn crop(picture: &[f32], (_, w): (usize, usize), to: Shape) -> Vec<f32> {
    let image = picture.len() / to.n;
    let rows = picture.chunks(image).flat_map(|p| p.chunks(w * 3).take(to.h));
    rows.flat_map(|row| &row[..to.w * 3]).map(|v| v.clamp(0.0, 1.0)).collect()
}

/// A program being run.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) program: &'a mut dyn Program,
    /// Whether nodes are checked, and if so whether the device may round.
    pub(super) check_nodes: Option<bool>,
}

impl Run<'_> {
    pub(super) fn write<T: bytemuck::NoUninit>(&mut self, slot: Slot, values: &[T]) -> Result<()> {
        self.program.write(slot, bytemuck::cast_slice(values))
    }

    pub(super) fn read_f32(&mut self, slot: Slot) -> Result<Vec<f32>> {
        let mut values = vec![0f32; slot.shape.elements()];
        self.program.read(slot, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Waits until the device has done all that it was given, so that each stage's time is its
    /// own. `slot` is a small one of the segment that ran last.
    pub(super) fn settle(&mut self, slot: Slot) -> Result<()> {
        self.read_f32(slot).map(drop)
    }

    pub(super) fn segment(&mut self, name: &str) -> Result<()> {
        let nodes = self.plan.segment(name);
        match self.check_nodes {
            Some(rounds) => crate::check::run(self.plan, self.program, nodes, rounds),
            None => self.program.run(nodes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{NoiseKind, NoiseStream};

    #[test]
    fn parts_of_the_noise() {
        let shape = Shape::new(5, 3, 2, 4);
        for (_, kind) in NoiseKind::NAMES {
            let generator = || NoiseGenerator::new(kind, 3, NoiseStream::StageB);
            let all = LatentNoise::draw(&mut generator(), shape, 4);
            assert_eq!(noise_of(&mut generator(), shape, 4, 1..3), all.images(1..3), "{kind}");
        }
    }
}
