//! Finished pictures, and records of how they were made.

#[cfg(feature = "pictures")]
mod exif;
#[cfg(feature = "pictures")]
mod format;
#[cfg(feature = "pictures")]
mod metadata;
#[cfg(feature = "pictures")]
mod png;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::request::Request;

#[cfg(feature = "pictures")]
pub use self::format::Format;
#[cfg(feature = "pictures")]
pub use self::metadata::{Metadata, is_picture, metadata_of, read_metadata};

/// A picture, 8-bit sRGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Red, green, blue of each pixel: `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

impl Image {
    /// Pictures of `width` × `height` pixels, one after the other, of 4 bytes a pixel: red, green, blue, and one that is
    /// not used.
    pub(crate) fn of_pixels(pixels: &[u8], width: usize, height: usize) -> Vec<Self> {
        let image = |pixels: &[u8]| {
            let rgb = pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
            Self { width: width as u32, height: height as u32, rgb }
        };
        pixels.chunks(width * height * 4).map(image).collect()
    }
}

/// How a picture was made, so that it can be made again alone.
///
/// A file of latents or text has the record of the whole run; [`of_image`](Self::of_image) is that of one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The program and its version.
    pub program: String,
    /// The model's name.
    pub model: String,
    /// Names of parts that were given apart from the model, by what they are, like `stage_b`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, String>,
    /// Which variants of the weights were looked for, the first one first, where that was not what is usual.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Names of the weights' files, by network, where the model has several for one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, String>,
    /// Adapters that changed the model, each with its strength, like `style.safetensors:0.8`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<String>,
    /// Which image of the request it is, from 0.
    pub image: usize,
    /// What was asked for.
    pub request: Request,
    /// The syntax of its prompts, where they are not plain text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub syntax: String,
    /// The device, as it is chosen: `cpu`, `wgpu:0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// What the operands of GEMMs were: `f32` or `bf16`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dtype: String,
    /// Capabilities of the device that were not used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub without: String,
    /// The file that encoded text was read from, where the request's prompts were not encoded in this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<FromFile>,
    /// The file that start latents were read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents: Option<FromFile>,
    /// The pictures that Stage C was shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImagePrompt>,
    /// The picture that Stage C changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitialPicture>,
    /// The ControlNets that steered Stage C.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<ControlRecord>,
    /// Where Stage C's latents came from, if not from this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Origin>,
}

/// A picture that Stage C was shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImagePrompt {
    /// Its file, by name.
    pub file: String,
    /// What its embedding was multiplied by.
    pub weight: f32,
}

/// A ControlNet that steered Stage C.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlRecord {
    /// Its file, by name.
    pub file: String,
    /// The file of its hint, by name; empty where that is made of the initial picture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The picture that says where that is to be painted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// What its additions were multiplied by.
    pub strength: f32,
    /// From where to where in the run they were added, as shares of the steps.
    pub range: (f32, f32),
}

/// Part of a file that a run was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FromFile {
    /// The file's name.
    pub file: String,
    /// Which row of its tensors, from 0.
    pub row: usize,
}

/// A picture that Stage C changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitialPicture {
    /// Its file, by name.
    pub file: String,
    /// How much of it was to change, 0 to 1.
    pub strength: f32,
    /// How it was fitted to the request's size.
    pub fit: String,
    /// The file of the mask that says where it was to change, by name; everywhere without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// By how many pixels it was extended, left, right, top and bottom, where the new parts alone were to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpaint: Option<[u32; 4]>,
}

impl InitialPicture {
    /// The strength where none is given.
    pub const STRENGTH: f32 = 0.6;
}

/// Where latents came from that a picture was decoded from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// Another request, and which of its images.
    Request {
        /// What was asked for.
        request: Box<Request>,
        /// Which image of it, from 0.
        image: usize,
    },
    /// A file of another program.
    File(FromFile),
}

impl Record {
    /// The name of our own text in picture files, and in the metadata of safetensors files: a record as JSON.
    pub const KEY: &str = "cascade";

    /// The record of a run of this program.
    pub fn new(request: &Request, model: &str) -> Self {
        Self {
            program: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
            model: model.into(),
            parts: BTreeMap::new(),
            variant: String::new(),
            weights: BTreeMap::new(),
            adapters: Vec::new(),
            image: 0,
            request: request.clone(),
            syntax: String::new(),
            device: String::new(),
            dtype: String::new(),
            without: String::new(),
            text: None,
            latents: None,
            images: Vec::new(),
            init: None,
            controls: Vec::new(),
            prior: None,
        }
    }

    /// The record of image `image` of the run, which says nothing of the others: its own prompt, its own seed.
    pub fn of_image(&self, image: usize) -> Self {
        let row = |given: &Option<FromFile>, row| given.as_ref().map(|of| FromFile { row: of.row + row, ..of.clone() });
        let prior = self.prior.as_ref().map(|origin| match origin {
            Origin::Request { request, .. } => {
                let (request, image) = request.alone(image);
                Origin::Request { request: request.into(), image }
            }
            Origin::File(of) => Origin::File(FromFile { row: of.row + image, ..of.clone() }),
        });
        let text = row(&self.text, image / self.request.count.max(1) as usize);
        let latents = row(&self.latents, image);
        let (request, image) = self.request.alone(image);
        Self { image, request, text, latents, prior, ..self.clone() }
    }

    /// The record as `parameters` text: prompt, negative prompt, one line of settings.
    pub fn parameters(&self) -> String {
        let request = &self.request;
        let negative = match &request.negative[..] {
            "" => String::new(),
            text => format!("Negative prompt: {text}\n"),
        };
        let quoted = |text: &str| match text.contains([',', ':', '"', '\n']) {
            true => serde_json::Value::from(text).to_string(),
            false => text.to_owned(),
        };
        let prior = match &self.prior {
            Some(Origin::Request { request, image }) => format!(", Prior seed: {}", request.seed_of(*image)),
            Some(Origin::File(of)) => format!(", Prior: {}", quoted(&of.file)),
            None => String::new(),
        };
        let hires = match request.is_hires() {
            true => format!(", Denoising strength: {}, Hires upscale: {}", request.hires_strength, request.hires),
            false => String::new(),
        };
        format!(
            "{}\n{negative}Steps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, \
             Decoder steps: {}, Decoder CFG scale: {}, Noise: {}{hires}{prior}, Version: {}",
            request.prompt_of(self.image),
            request.steps.0,
            request.method.0.sampler.title(),
            request.guidance.0,
            request.seed_of(self.image),
            request.width,
            request.height,
            quoted(&self.model),
            request.steps.1,
            request.guidance.1,
            request.noise,
            self.program,
        )
        .replace('\0', "\u{fffd}") // PNG text ends at a zero
    }
}
