//! Pictures to embeddings, once for all batches of a run.

use std::sync::Arc;

use super::Pipeline;
use super::inputs::HostTensor;
use super::run::not_finite;
use crate::error::Result;
use crate::image::Image;
use crate::net::{Net, clip};
use crate::ops::Element;
use crate::picture::clip_pixels;
use crate::plan::Recorder;
use crate::shape::Shape;

impl Pipeline {
    /// The CLIP embeddings of pictures of any size, `[1, 1, pictures, c]`: image prompts for
    /// [`Inputs::image`](super::Inputs::image). Each picture is resized and cropped to a square in its middle, and goes
    /// through the vision tower alone. With `check_nodes`, every node is compared with its definition.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] if the model has no vision tower, [`Error::DoesNotFit`], a device that is lost, numbers
    /// that are not finite.
    pub fn embed_pictures(&mut self, pictures: &[Image], check_nodes: bool) -> Result<HostTensor> {
        let (weights, config) = self.model.vision()?;
        let side = config.image_size;
        let mut rec = Recorder::new();
        let segment = rec.segment("vision");
        let pixels = rec.input(Shape::new(1, side, side, config.num_channels), Element::F32);
        let [class_id, class_row] = [(); 2].map(|()| rec.input(Shape::vector(1), Element::U32));
        let patch_ids = rec.input(Shape::new(1, 1, config.patches(), 1), Element::U32);
        let result = clip::vision(&mut Net::new(&mut rec, weights), config, pixels, class_id, class_row, patch_ids)?;
        rec.keep(result);
        let plan = Arc::new(rec.finish());

        let rounds = self.backend.device().rounds();
        let mut program = self.plans.program(&plan, self.backend.as_ref(), "the vision tower for one picture")?;
        let ids: Vec<u32> = (1..=config.patches() as u32).collect();
        let mut values = Vec::new();
        for picture in pictures {
            let normalised = clip_pixels(picture, side as u32);
            program.write(pixels, bytemuck::cast_slice(&normalised))?;
            program.write(class_id, &[0; 4])?;
            program.write(class_row, &[0; 4])?;
            program.write(patch_ids, bytemuck::cast_slice(&ids))?;
            match check_nodes {
                true => crate::check::run(&plan, program.as_mut(), plan.nodes_of(segment), rounds)?,
                false => program.run(plan.nodes_of(segment))?,
            }
            let mut embedding = vec![0f32; result.shape.elements()];
            program.read(result, bytemuck::cast_slice_mut(&mut embedding))?;
            match embedding.iter().filter(|value| !value.is_finite()).count() {
                0 => values.extend(embedding),
                count => return Err(not_finite(&[weights], "the vision tower", count as u32, String::new())),
            }
        }
        Ok(HostTensor { shape: Shape::new(1, 1, pictures.len(), result.shape.c), values })
    }
}
