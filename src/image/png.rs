//! PNG files with a record of how the picture was made.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use png::text_metadata::ITXtChunk;

use super::{Image, Record};
use crate::error::{Error, Result};
use crate::output::write_atomically;

/// Text chunk that most programs for such pictures read and write.
const PARAMETERS: &str = "parameters";
/// Most bytes of text to take from somebody's PNG.
const TEXT_LIMIT: usize = 64 << 20;

impl Image {
    /// Writes a PNG file, in place of one that exists. It appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Shape`] if `rgb` is not `[height, width, 3]`, [`Error::Disk`] if writing fails.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomically(path.as_ref(), &self.to_png(None)?, true)
    }

    /// The picture as a PNG file, which carries `record` if there is one.
    ///
    /// `parameters` is a Latin-1 `tEXt` chunk where its characters allow, else
    /// UTF-8 `iTXt`; `cascade` is always the latter.
    ///
    /// # Errors
    /// [`Error::Shape`] if `rgb` is not `[height, width, 3]`.
    pub fn to_png(&self, record: Option<&Record>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.encode(record, &mut bytes).map_err(|e| Error::Shape {
            at: "image".into(),
            op: "png",
            expected: format!("[{}, {}, 3] bytes", self.height, self.width),
            found: format!("{} bytes ({e})", self.rgb.len()),
        })?;
        Ok(bytes)
    }

    fn encode(&self, record: Option<&Record>, out: &mut Vec<u8>) -> std::result::Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(out, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fast);
        if let Some(record) = record {
            let parameters = record.parameters();
            match parameters.chars().all(|c| c <= '\u{ff}') {
                true => encoder.add_text_chunk(PARAMETERS.into(), parameters)?,
                false => encoder.add_itxt_chunk(PARAMETERS.into(), parameters)?,
            }
            encoder.add_itxt_chunk(Record::KEY.into(), serde_json::to_string(record).map_err(std::io::Error::from)?)?;
        }
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
    Ok(Metadata { width: info.width, height: info.height, parameters: text(PARAMETERS), cascade: text(Record::KEY) })
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
