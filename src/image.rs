//! Finished pictures: pixels, PNG, and the record of how a picture was made that its file carries.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use png::text_metadata::ITXtChunk;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::request::Request;

/// Text chunk that most programs for such pictures read and write.
const PARAMETERS: &str = "parameters";
/// Our own text chunk, also in the metadata of safetensors files: a [`Record`] as JSON.
pub(crate) const CASCADE: &str = "cascade";
/// Most bytes of text to take from somebody's PNG.
const TEXT_LIMIT: usize = 64 << 20;

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
    /// Where Stage C's latents came from, if not from this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Origin>,
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
    /// The record of image `image` of a run of this program.
    pub fn new(request: &Request, model: &str, image: usize) -> Self {
        let program = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into();
        Self { program, model: model.into(), image, request: request.clone(), text: None, prior: None }
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
            "{}\n{negative}Steps: {}, Sampler: DDPM, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, \
             Decoder steps: {}, Decoder CFG scale: {}, Noise: {}{prior}, Version: {}",
            request.prompt_of(self.image),
            request.steps.0,
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

impl Image {
    /// The picture as a PNG file that carries `record`.
    ///
    /// `parameters` is a Latin-1 `tEXt` chunk where its characters allow, else
    /// UTF-8 `iTXt`; `cascade` is always the latter.
    ///
    /// # Errors
    /// [`Error::Shape`] if `rgb` is not `[height, width, 3]`.
    pub fn to_png(&self, record: &Record) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.encode(record, &mut bytes).map_err(|e| Error::Shape {
            at: "image".into(),
            op: "png",
            expected: format!("[{}, {}, 3] bytes", self.height, self.width),
            found: format!("{} bytes ({e})", self.rgb.len()),
        })?;
        Ok(bytes)
    }

    fn encode(&self, record: &Record, out: &mut Vec<u8>) -> std::result::Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(out, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fast);
        let parameters = record.parameters();
        match parameters.chars().all(|c| c <= '\u{ff}') {
            true => encoder.add_text_chunk(PARAMETERS.into(), parameters)?,
            false => encoder.add_itxt_chunk(PARAMETERS.into(), parameters)?,
        }
        encoder.add_itxt_chunk(CASCADE.into(), serde_json::to_string(record).map_err(std::io::Error::from)?)?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()
    }
}

/// What a PNG file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// The `parameters` text, ours or another program's.
    pub parameters: Option<String>,
    /// The `cascade` text, see [`Metadata::record`].
    pub cascade: Option<String>,
}

impl Metadata {
    /// How the picture was made, if this program made it.
    ///
    /// # Errors
    /// If the `cascade` text is no [`Record`].
    pub fn record(&self) -> serde_json::Result<Option<Record>> {
        self.cascade.as_deref().map(serde_json::from_str).transpose()
    }
}

/// Reads what a PNG file says about itself, up to its first pixels.
///
/// # Errors
/// [`Error::Disk`] if there is no such file, [`Error::Model`] if it is no PNG.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    let file = File::open(path).map_err(|e| disk(path, "open", e))?;
    let decoder = png::Decoder::new_with_limits(BufReader::new(file), png::Limits { bytes: TEXT_LIMIT });
    let reader = decoder.read_info().map_err(|e| match e {
        png::DecodingError::IoError(e) if e.kind() != ErrorKind::UnexpectedEof => disk(path, "read", e),
        e => Error::Model { path: path.to_owned(), expected: "a PNG image".into(), found: e.to_string() },
    })?;
    let info = reader.info();
    let text = |keyword: &str| {
        let latin1 = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
        let utf8 = info.utf8_text.iter().filter(|chunk| chunk.keyword == keyword).find_map(unpacked);
        latin1.map(|chunk| chunk.text.clone()).or(utf8)
    };
    Ok(Metadata { width: info.width, height: info.height, parameters: text(PARAMETERS), cascade: text(CASCADE) })
}

/// The chunk's text, unless it is damaged or unpacks to something enormous.
fn unpacked(chunk: &ITXtChunk) -> Option<String> {
    let mut chunk = chunk.clone();
    chunk.decompress_text_with_limit(TEXT_LIMIT).ok()?;
    chunk.get_text().ok()
}

fn disk(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Disk { path: path.to_owned(), action, source }
}
