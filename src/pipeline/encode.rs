//! Pictures to embeddings and latents, once for all batches of a run.

use std::sync::Arc;

use super::Pipeline;
use super::inputs::HostTensor;
use super::plans::{Plans, usable};
use super::run::not_finite;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::net::config::EffnetConfig;
use crate::net::{Net, clip, effnet, slot, stage_a};
use crate::ops::{Element, ToRgb8};
use crate::picture::{Area, Filter, Fit, Statistics, clip_crop, resample};
use crate::plan::{Plan, Recorder, Slot};
use crate::shape::Shape;
use crate::weights::Checkpoint;

/// Pixels of a picture that become one of the latents that the EfficientNet makes of it, along each axis.
pub const LATENT_PIXELS: usize = EffnetConfig::FACTOR;

/// An encoder of one picture, recorded as a plan of its own.
struct Encoder<'a> {
    /// For messages.
    name: &'static str,
    weights: &'a Checkpoint,
    plan: Arc<Plan>,
    /// The normalised picture, `[1, h, w, 3]`.
    pixels: Slot,
    /// Indices that are the same for all pictures.
    indices: Vec<(Slot, Vec<u32>)>,
    result: Slot,
}

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
        rec.segment("vision");
        let pixels = rec.input(Shape::new(1, side, side, config.num_channels), Element::F32);
        let [class_id, class_row] = [(); 2].map(|()| rec.input(Shape::vector(1), Element::U32));
        let patch_ids = rec.input(Shape::new(1, 1, config.patches(), 1), Element::U32);
        let result = clip::vision(&mut Net::new(&mut rec, weights), config, pixels, class_id, class_row, patch_ids)?;
        rec.keep(result);
        let ids = (1..=config.patches() as u32).collect();
        let indices = vec![(class_id, vec![0]), (class_row, vec![0]), (patch_ids, ids)];
        let plan = Arc::new(rec.finish());
        let encoder = Encoder { name: "the vision tower", weights, plan, pixels, indices, result };

        let cropped = |picture: &Image| Statistics::CLIP.normalise(&clip_crop(picture, side as u32));
        let values = encoder.run(&mut self.plans, self.backend.as_ref(), pictures.iter().map(cropped), check_nodes)?;
        Ok(HostTensor { shape: Shape::new(1, 1, pictures.len(), result.shape.c), values })
    }

    /// The Stage C latents of a picture, `[1, h, w, 16]`, which [`Inputs::stage_c`](super::Inputs::stage_c) and
    /// [`Init`](super::Init) take. The picture has the size of the pictures that are to be made; `size` is the height and
    /// width of their latents, as [`Request::sizes`](crate::Request::sizes) has it.
    ///
    /// # Errors
    /// As [`embed_pictures`](Self::embed_pictures), of the EfficientNet encoder.
    pub fn encode_picture(&mut self, picture: &Image, size: (usize, usize), check_nodes: bool) -> Result<HostTensor> {
        let (weights, config) = self.model.effnet()?;
        let (height, width) = (LATENT_PIXELS * size.0, LATENT_PIXELS * size.1);
        let mut rec = Recorder::new();
        rec.segment("effnet");
        let pixels = rec.input(Shape::new(1, height, width, 3), Element::F32);
        let result = effnet::encode(&mut Net::new(&mut rec, weights), config, pixels)?;
        rec.keep(result);
        let plan = Arc::new(rec.finish());
        let encoder = Encoder { name: "the EfficientNet", weights, plan, pixels, indices: Vec::new(), result };

        let picture = Fit::Stretch.apply(picture, width as u32, height as u32);
        let values = [Statistics::IMAGENET.normalise(&picture)].into_iter();
        let values = encoder.run(&mut self.plans, self.backend.as_ref(), values, check_nodes)?;
        Ok(HostTensor { shape: result.shape, values })
    }

    /// What Stage A makes of a picture that it has encoded itself: the best that any latents can do. The sides are
    /// multiples of [`StageAConfig::factor`](crate::net::config::StageAConfig::factor), 4 in the published model; what is
    /// left over on the right and at the bottom is cut off.
    ///
    /// # Errors
    /// As [`embed_pictures`](Self::embed_pictures), of Stage A.
    pub fn autoencode(&mut self, picture: &Image, check_nodes: bool) -> Result<Image> {
        let (weights, config) = &self.model.stage_a;
        let factor = config.factor() as u32;
        let (width, height) = (picture.width / factor * factor, picture.height / factor * factor);
        if width == 0 || height == 0 {
            return Err(Error::Request {
                what: "picture".into(),
                expected: format!("at least {factor} pixels a side"),
                found: format!("{}×{}", picture.width, picture.height),
            });
        }
        let mut rec = Recorder::new();
        rec.segment("autoencoder");
        let pixels = rec.input(Shape::new(1, height as usize, width as usize, 3), Element::F32);
        let mut net = Net::new(&mut rec, weights);
        let latents = stage_a::encode(&mut net, config, pixels)?;
        let decoded = stage_a::decode(&mut net, config, latents, false)?;
        let rgb = ToRgb8 { height: height as usize, width: width as usize };
        let result = net.op("to_rgb8", rgb, &[slot(decoded)])?;
        rec.keep(result);
        let plan = Arc::new(rec.finish());
        let encoder = Encoder { name: "Stage A", weights, plan, pixels, indices: Vec::new(), result };

        let whole = Area { x: [0.0, width.into()], y: [0.0, height.into()] };
        let picture = resample(picture, whole, (width, height), (0..width, 0..height), Filter::Bilinear);
        let values = [Statistics::NONE.normalise(&picture)].into_iter();
        let packed = encoder.run(&mut self.plans, self.backend.as_ref(), values, check_nodes)?;
        let mut images = Image::of_pixels(bytemuck::cast_slice(&packed), width as usize, height as usize);
        Ok(images.swap_remove(0))
    }
}

impl Encoder<'_> {
    /// The results of all pictures, one after the other; of indices, their bits.
    fn run(
        &self,
        plans: &mut Plans,
        backend: &dyn Backend,
        pictures: impl Iterator<Item = Vec<f32>>,
        check_nodes: bool,
    ) -> Result<Vec<f32>> {
        let (plan, device) = (&self.plan, backend.device());
        let weights = if device.copies_weights { plan.span_weight_bytes(device.stores_bf16()) } else { 0 };
        let need = plan.arena_bytes() + weights;
        if plans.make_room(need, plan.arena_bytes(), backend)?.is_none() {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let Shape { h, w, .. } = self.pixels.shape;
            return Err(Error::DoesNotFit {
                device: device.name.clone(),
                free_mib: mib(usable(backend.free_bytes()?)),
                need_mib: mib(need),
                detail: format!("{} for a picture of {w}×{h} px", self.name),
                remedy: "free memory, or try a smaller `width` and `height`".into(),
            });
        }
        let mut program = backend.compile(plan.clone())?;
        let is_real = plan.slots[self.result.id()].element != Element::U32;
        let mut results = Vec::new();
        for picture in pictures {
            program.write(self.pixels, bytemuck::cast_slice(&picture))?;
            for (index, values) in &self.indices {
                program.write(*index, bytemuck::cast_slice(values))?;
            }
            match check_nodes {
                true => crate::check::run(plan, program.as_mut(), 0..plan.nodes.len(), device.rounds())?,
                false => program.run(0..plan.nodes.len())?,
            }
            let mut result = vec![0f32; self.result.shape.elements()];
            program.read(self.result, bytemuck::cast_slice_mut(&mut result))?;
            let bad = result.iter().filter(|value| is_real && !value.is_finite()).count();
            if bad > 0 {
                return Err(not_finite(&[self.weights], self.name, bad as u32, String::new()));
            }
            results.extend(result);
        }
        Ok(results)
    }
}
