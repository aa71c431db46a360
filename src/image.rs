//! Finished pictures, and records of how they were made.

#[cfg(feature = "png")]
mod png;

use serde::{Deserialize, Serialize};

use crate::request::Request;

#[cfg(feature = "png")]
pub use self::png::{Metadata, read_metadata};

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

/// How a picture was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The program and its version.
    pub program: String,
    /// The model's name.
    pub model: String,
    /// Which image of the run, from 0.
    pub image: usize,
    /// The whole run.
    pub request: Request,
    /// The file that encoded text was read from, where the request's prompts were not encoded in this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The pictures that Stage C was shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImagePrompt>,
    /// The picture that Stage C changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitialPicture>,
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

/// A picture that Stage C changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitialPicture {
    /// Its file, by name.
    pub file: String,
    /// How much of it was to change, 0 to 1.
    pub strength: f32,
    /// How it was fitted to the request's size.
    pub fit: String,
}

/// Where latents came from that a picture was decoded from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// Another request.
    Request(Box<Request>),
    /// A file of another program, by its name.
    File(String),
}

impl Record {
    /// The name of our own text in PNG files, and in the metadata of safetensors files: a record as JSON.
    pub const KEY: &str = "cascade";

    /// The record of image `image` of a run of this program.
    pub fn new(request: &Request, model: &str, image: usize) -> Self {
        let program = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into();
        Self {
            program,
            model: model.into(),
            image,
            request: request.clone(),
            text: None,
            images: Vec::new(),
            init: None,
            prior: None,
        }
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
            Some(Origin::Request(prior)) => format!(", Prior seed: {}", prior.seed_of(self.image)),
            Some(Origin::File(name)) => format!(", Prior: {}", quoted(name)),
            None => String::new(),
        };
        format!(
            "{}\n{negative}Steps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, \
             Decoder steps: {}, Decoder CFG scale: {}, Noise: {}{prior}, Version: {}",
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
