//! Stage A: Stage B's latents to pixels.

use super::inputs::{HostTensor, Repaint};
use super::key::PlanKey;
use super::observer::StageName;
use super::run::{Job, Run};
use super::stages::Stage;
use crate::error::Result;
use crate::image::Image;
use crate::model::Model;
use crate::net::{Net, slot, stage_a};
use crate::ops::{CountNonFinite, Scale, ToRgb8};
use crate::picture::paste_back;
use crate::plan::{Recorder, SegmentId, Slot};

/// Stage A and the conversion to bytes.
pub(crate) struct StageA {
    decode: SegmentId,
    /// The decoded picture, `[n, h, w, 3]`, up to 7 pixels larger than the one asked for at the right and the bottom.
    picture: Slot,
    /// How many of its values are not finite.
    not_finite: Slot,
    /// Packed pixels of the picture asked for, `[n, height, width, 1]`, u32.
    rgb: Slot,
}

impl StageA {
    /// Records the decoder of `latents [n, h, w, 4]`.
    pub fn record(rec: &mut Recorder, model: &Model, key: &PlanKey, latents: Slot) -> Result<Self> {
        let (weights, config) = &model.stage_a;
        let decode = rec.segment("decode");
        let mut net = Net::new(rec, weights);
        let z = net.op("scale_factor", Scale { factor: config.scale_factor }, &[slot(latents)])?;
        let picture = stage_a::decode(&mut net, config, z, false)?;
        let not_finite = net.op("finite", CountNonFinite, &[slot(picture)])?;
        let rgb = net.op("to_rgb8", ToRgb8 { height: key.height, width: key.width }, &[slot(picture)])?;
        [not_finite, rgb].into_iter().for_each(|slot| rec.keep(slot));
        if key.keep {
            rec.keep(picture);
        }
        Ok(Self { decode, picture, not_finite, rgb })
    }
}

impl Stage for StageA {
    fn name(&self) -> StageName {
        StageName::StageA
    }

    fn steps(&self, _: &Job<'_>) -> usize {
        1
    }

    fn segments(&self, _: &Job<'_>) -> Vec<(SegmentId, usize)> {
        vec![(self.decode, 1)]
    }

    fn run(&self, run: &mut Run<'_>) -> Result<()> {
        run.segment(self.decode)?;
        run.finite(self.not_finite, StageName::StageA, 1)?;
        let shape = self.rgb.shape;
        let mut pixels = vec![0u8; shape.elements() * 4];
        run.program.read(self.rgb, &mut pixels)?;
        if run.keep {
            let picture = run.read(self.picture)?;
            run.keep("image", crop(&picture, shape.h, shape.w));
        }
        run.results.images = Image::of_pixels(&pixels, shape.w, shape.h);
        if let Some(Repaint { picture, mask }) = run.job.begun.and_then(|begun| begun.repaint) {
            run.results.images.iter_mut().for_each(|made| paste_back(made, picture, mask));
        }
        run.step_done(StageName::StageA, [0, 1], 0.0, None, None)
    }

    fn host_bytes(&self, _total: usize) -> u64 {
        4 * 2 * self.rgb.shape.elements() as u64
    }
}

/// The upper left `h` × `w` pixels of pictures `[n, _, _, 3]`, between 0 and 1.
fn crop(picture: &HostTensor, h: usize, w: usize) -> HostTensor {
    let row = picture.shape.w * 3;
    let images = picture.values.chunks(picture.shape.h * row);
    let rows = images.flat_map(|image| image.chunks(row).take(h));
    let values = rows.flat_map(|row| &row[..w * 3]).map(|v| v.clamp(0.0, 1.0)).collect();
    HostTensor { shape: picture.shape.with_hw(h, w), values }
}
