//! PNG files with a record of how the picture was made.

use std::io::{BufRead, Seek};

use png::text_metadata::{ITXtChunk, ZTXtChunk};

use super::{Image, Metadata, Record};

/// Text chunk that most programs for such pictures read and write.
const PARAMETERS: &str = "parameters";
/// Most bytes of text to take from somebody's PNG, as they are stored.
const TEXT_LIMIT: usize = 64 << 20;
/// Most bytes that one text may take when it is unpacked, and how many of the same keyword are tried.
const UNPACKED_LIMIT: usize = 16 << 20;
const TRIES: usize = 4;

impl Image {
    /// Writes a PNG file.
    ///
    /// `parameters` is a Latin-1 `tEXt` chunk where its characters allow, else
    /// UTF-8 `iTXt`; `cascade` is always the latter.
    pub(super) fn write_png(
        &self,
        record: Option<&Record>,
        out: &mut Vec<u8>,
    ) -> std::result::Result<(), png::EncodingError> {
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

/// Reads what a PNG file says about itself: text that is stored as it is or packed, before the pixels or after them.
pub(super) fn read(file: impl BufRead + Seek) -> std::result::Result<Metadata, png::DecodingError> {
    let decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: TEXT_LIMIT });
    let mut reader = decoder.read_info()?;
    // Text may follow the pixels. Where those are damaged, what precedes them is still of use.
    let _ = reader.finish();
    let info = reader.info();
    let text = |keyword: &str| {
        let plain = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
        let packed = info.compressed_latin1_text.iter().filter(|chunk| chunk.keyword == keyword);
        let utf8 = info.utf8_text.iter().filter(|chunk| chunk.keyword == keyword);
        plain
            .map(|chunk| chunk.text.clone())
            .or_else(|| packed.take(TRIES).find_map(unpacked_latin1))
            .or_else(|| utf8.take(TRIES).find_map(unpacked))
    };
    let (parameters, cascade) = (text(PARAMETERS), text(Record::KEY));
    Ok(Metadata { format: "PNG", width: info.width, height: info.height, parameters, cascade })
}

/// The chunk's text, unless it is damaged or unpacks to something enormous.
fn unpacked(chunk: &ITXtChunk) -> Option<String> {
    let mut chunk = chunk.clone();
    chunk.decompress_text_with_limit(UNPACKED_LIMIT).ok()?;
    chunk.get_text().ok()
}

/// As [`unpacked`].
fn unpacked_latin1(chunk: &ZTXtChunk) -> Option<String> {
    let mut chunk = chunk.clone();
    chunk.decompress_text_with_limit(UNPACKED_LIMIT).ok()?;
    chunk.get_text().ok()
}
