//! What a run may be given in place of what it would otherwise compute or draw.

use super::control::Control;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::model::Model;
use crate::net::unet::UNet;
use crate::request::Request;
use crate::shape::Shape;

/// Real numbers in the host's memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Extent.
    pub shape: Shape,
    /// Values `[n, h, w, c]`.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// The values of some images, one after the other.
    ///
    /// # Panics
    /// If an index is beyond the tensor's images.
    pub fn images(&self, indices: &[usize]) -> Vec<f32> {
        let image = self.values.len() / self.shape.n.max(1);
        indices.iter().flat_map(|&i| &self.values[i * image..(i + 1) * image]).copied().collect()
    }

    /// This `times` over.
    pub fn repeated(self, times: usize) -> Self {
        Self { shape: Shape { n: self.shape.n * times, ..self.shape }, values: self.values.repeat(times) }
    }

    /// A tensor of some of the images.
    ///
    /// # Panics
    /// If an index is beyond the tensor's images.
    pub fn rows(&self, indices: &[usize]) -> HostTensor {
        HostTensor { shape: Shape { n: indices.len(), ..self.shape }, values: self.images(indices) }
    }

    /// Adds the images of another tensor, which has the same extent otherwise.
    pub(super) fn append(&mut self, more: HostTensor) {
        self.shape.n += more.shape.n;
        self.values.extend(more.values);
    }
}

/// What the text encoder makes of all texts of a request: one row for each prompt, then one for the negative
/// prompt, which only guided stages need.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbeddings {
    /// States of every token, `[texts, 1, t, c]`, as Stage C takes them. Of any number of tokens: longer prompts have those of
    /// several texts one after the other. Stages B and A do without.
    pub states: Option<HostTensor>,
    /// Pooled and projected text, `[texts, 1, 1, p]`.
    pub pooled: HostTensor,
}

/// Stage C's result, and the text that Stage B is conditioned on: all that the decoder needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Prior {
    /// Latents of every image, `[n, h, w, 16]`.
    pub stage_c: HostTensor,
    /// Text of every prompt, then of the negative one.
    pub text: TextEmbeddings,
}

impl Prior {
    /// The inputs of a run that decodes it.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs { text: Some(&self.text), stage_c: Some(&self.stage_c), ..Inputs::default() }
    }
}

/// A picture that Stage C changes rather than makes from noise.
#[derive(Debug, Clone, Copy)]
pub struct Init<'a> {
    /// Its latents, `[images, h, w, 16]` for every image, or `[1, h, w, 16]` for all; see
    /// [`Pipeline::encode_picture`](super::Pipeline::encode_picture).
    pub latents: &'a HostTensor,
    /// How much of it is to change, 0 to 1. Sampling begins at the first step whose diffusion time is at most this, with as
    /// much noise as belongs there. 0 leaves the picture as it is, and 1 leaves nothing of it.
    pub strength: f32,
    /// Where alone it is to change.
    pub repaint: Option<Repaint<'a>>,
}

/// What of a picture is made anew. The rest stays as it is, pixel by pixel.
#[derive(Debug, Clone, Copy)]
pub struct Repaint<'a> {
    /// The picture, of the request's size.
    pub picture: &'a Image,
    /// In grey and of the same size: from 0, where nothing is repainted, to 255.
    pub mask: &'a Image,
}

/// What is given for a run. Tensors of images hold all images of the request. Where Stage C makes two passes, the first one is
/// given `init`, `control` and `start_c`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// Text states: the text encoder does not run, and what the prompts say is of no consequence.
    pub text: Option<&'a TextEmbeddings>,
    /// Image prompts: CLIP embeddings `[images, 1, prompts, c]` for every image, or `[1, 1, prompts, c]` for all. They may
    /// be scaled: at zero there is no prompt.
    pub image: Option<&'a HostTensor>,
    /// Stage C's result `[images, h, w, 16]` of any size: only the decoder runs.
    pub stage_c: Option<&'a HostTensor>,
    /// A picture that Stage C changes.
    pub init: Option<Init<'a>>,
    /// What ControlNets add to Stage C, at most 16 of them.
    pub control: &'a [Control<'a>],
    /// Start latents of Stage C instead of seeded noise, `[images, h, w, 16]`.
    pub start_c: Option<&'a HostTensor>,
    /// Start latents of Stage B instead of seeded noise, `[images, h, w, 4]`.
    pub start_b: Option<&'a HostTensor>,
}

impl Inputs<'_> {
    /// Whether everything that is given fits the request and the model.
    ///
    /// # Errors
    /// [`Error::Request`] for the first field that does not.
    pub(super) fn check(&self, request: &Request, model: &Model) -> Result<()> {
        let (images, sizes) = (request.images(), request.sizes());
        let c = &model.stage_c.1;
        if let Some(text) = self.text {
            self.check_text(text, request, model)?;
        }
        if let Some(image) = self.image {
            let channels = c.clip_image_in_channels.ok_or_else(|| {
                wrong(
                    "image",
                    "no image embeddings, because this model's Stage C takes none".into(),
                    image.shape.to_string(),
                )
            })?;
            if image.shape.w == 0 || image.shape.w > MAX_IMAGE_PROMPTS {
                let expected = format!("1 to {MAX_IMAGE_PROMPTS} image prompts");
                return Err(wrong("image", expected, image.shape.w.to_string()));
            }
            let rows = if image.shape.n == 1 { 1 } else { images };
            require("image", image, Shape::new(rows, 1, image.shape.w, channels))?;
        }
        if let Some(latents) = self.stage_c {
            let Shape { h, w, .. } = latents.shape;
            if h == 0 || w == 0 || h.max(w) > MAX_LATENT {
                let expected = format!("latents of 1 to {MAX_LATENT} pixels a side");
                return Err(wrong("stage_c", expected, latents.shape.to_string()));
            }
            require("stage_c", latents, Shape::new(images, h, w, c.out_channels))?;
        }
        if let Some(Init { latents, strength, repaint }) = self.init {
            if !(0.0..=1.0).contains(&strength) {
                return Err(wrong("strength", "a number from 0 to 1".into(), strength.to_string()));
            }
            if self.stage_c.is_some() {
                let found = "its result as well".into();
                return Err(wrong("init", "none where Stage C's result is given".into(), found));
            }
            let rows = if latents.shape.n == 1 { 1 } else { images };
            if repaint.is_some() && request.is_hires() {
                let expected = "1, one pass, where a mask keeps a part of a picture";
                return Err(wrong("hires", expected.into(), request.hires.to_string()));
            }
            for image in repaint.iter().flat_map(|repaint| [repaint.picture, repaint.mask]) {
                if (image.width, image.height) != (request.width, request.height) {
                    let expected = format!("a picture and a mask of {}×{} pixels", request.width, request.height);
                    return Err(wrong("mask", expected, format!("{}×{}", image.width, image.height)));
                }
            }
            require("init", latents, Shape::new(rows, sizes.c.0, sizes.c.1, c.in_channels))?;
        }
        if self.control.len() > MAX_CONTROLS {
            let expected = format!("at most {MAX_CONTROLS} ControlNets");
            return Err(wrong("control", expected, self.control.len().to_string()));
        }
        let latents = Shape::new(1, sizes.c.0, sizes.c.1, c.in_channels);
        self.control.iter().try_for_each(|control| control.check(&UNet { config: c }, latents))?;
        if let Some(start) = self.start_c {
            require("start_c", start, Shape::new(images, sizes.c.0, sizes.c.1, c.in_channels))?;
        }
        if let Some(start) = self.start_b {
            let sizes = request.last_pass().sizes();
            require("start_b", start, Shape::new(images, sizes.b.0, sizes.b.1, model.stage_b.1.in_channels))?;
        }
        Ok(())
    }

    fn check_text(&self, text: &TextEmbeddings, request: &Request, model: &Model) -> Result<()> {
        let (config, prompts) = (&model.text.1, request.prompts.len());
        let guided = self.stage_c.is_none() && request.guidance.0 > 1.0 || request.guidance.1 > 1.0;
        let rows = text.pooled.shape.n;
        if rows != prompts + 1 && (guided || rows != prompts) {
            let expected = match guided {
                true => format!("text of {prompts} prompts and, since the run is guided, of the negative one"),
                false => format!("text of {prompts} prompts, with or without the negative one"),
            };
            return Err(wrong("text", expected, format!("{rows} texts")));
        }
        require("text.pooled", &text.pooled, Shape::new(rows, 1, 1, config.projection_dim))?;
        match &text.states {
            Some(states) => {
                let positions = states.shape.w;
                if positions == 0 || positions > MAX_POSITIONS {
                    let expected = format!("states of 1 to {MAX_POSITIONS} positions");
                    return Err(wrong("text.states", expected, states.shape.to_string()));
                }
                require("text.states", states, Shape::new(rows, 1, positions, config.hidden_size))
            }
            None if self.stage_c.is_some() => Ok(()),
            None => Err(wrong("text.states", "states of every token, which Stage C takes".into(), "none".into())),
        }
    }
}

/// Most image prompts of an image.
const MAX_IMAGE_PROMPTS: usize = 64;

/// Most ControlNets of a run.
const MAX_CONTROLS: usize = 16;

/// Most positions of text states: 64 times CLIP's 77.
const MAX_POSITIONS: usize = 4928;

/// Longest side of Stage C's latents: those of the largest picture.
const MAX_LATENT: usize = 384;

fn require(what: &str, tensor: &HostTensor, shape: Shape) -> Result<()> {
    match tensor.shape == shape && tensor.values.len() == shape.elements() {
        true => Ok(()),
        false => Err(wrong(what, shape.to_string(), format!("{} with {} values", tensor.shape, tensor.values.len()))),
    }
}

/// The error for a field that is wrong.
pub(super) fn wrong(what: &str, expected: String, found: String) -> Error {
    Error::Request { what: what.into(), expected, found }
}
