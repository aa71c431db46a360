//! What picture files say about themselves.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek};
use std::path::Path;

use image_webp::WebPDecoder;

use super::{Record, exif, png};
use crate::error::{Error, Result};

/// Most bytes to read of somebody's picture.
const LIMIT: u64 = 256 << 20;

/// What a picture file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// PNG, JPEG or WebP.
    pub format: &'static str,
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

/// Whether these first bytes are those of a picture file.
pub fn is_picture(start: &[u8]) -> bool {
    [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8\xff", b"RIFF"].iter().any(|magic| start.starts_with(magic))
}

/// Reads what a PNG, JPEG or WebP file says about itself.
///
/// # Errors
/// [`Error::Disk`] if there is no such file, [`Error::Model`] if it is no such picture.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    let file = File::open(path).map_err(|source| Error::Disk { path: path.to_owned(), action: "open", source })?;
    read(BufReader::new(file), path)
}

/// The same of a file's contents; `path` is for messages.
///
/// # Errors
/// [`Error::Model`] if it is no such picture.
pub fn metadata_of(bytes: &[u8], path: &Path) -> Result<Metadata> {
    read(Cursor::new(bytes), path)
}

fn read(mut file: impl BufRead + Seek, path: &Path) -> Result<Metadata> {
    let disk = |action| move |source| Error::Disk { path: path.to_owned(), action, source };
    let damaged =
        |found: String| Error::Model { path: path.to_owned(), expected: "a PNG, JPEG or WebP image".into(), found };
    let mut start = Vec::new();
    file.by_ref().take(8).read_to_end(&mut start).map_err(disk("read"))?;
    file.rewind().map_err(disk("read"))?;
    if start.starts_with(b"\xff\xd8\xff") {
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes).map_err(disk("read"))?;
        return jpeg(&bytes).ok_or_else(|| damaged("a JPEG image that ends before its pixels".into()));
    }
    if start.starts_with(b"RIFF") {
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes).map_err(disk("read"))?;
        let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| damaged(e.to_string()))?;
        let (width, height) = decoder.dimensions();
        let about = decoder.exif_metadata().map_err(|e| damaged(e.to_string()))?;
        let [parameters, cascade] = about.map_or([None, None], exif::read);
        return Ok(Metadata { format: "WebP", width, height, parameters, cascade });
    }
    png::read(file).map_err(|e| match e {
        ::png::DecodingError::IoError(e) if e.kind() != ErrorKind::UnexpectedEof => disk("read")(e),
        e => damaged(e.to_string()),
    })
}

/// What the segments of a JPEG file say that come before its pixels.
fn jpeg(bytes: &[u8]) -> Option<Metadata> {
    let (mut size, mut about) = (None, None);
    let mut rest = bytes.get(2..)?;
    while size.is_none() || about.is_none() {
        let &[0xff, marker, high, low] = rest.first_chunk()? else { return None };
        let segment = rest.get(4..2 + usize::from(u16::from_be_bytes([high, low])))?;
        match marker {
            // A frame of any coding; the gaps are tables.
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                let &[_, h, l, w, v] = segment.first_chunk()?;
                size = Some((u16::from_be_bytes([w, v]), u16::from_be_bytes([h, l])));
            }
            0xe1 if about.is_none() => about = segment.strip_prefix(b"Exif\0\0").map(<[u8]>::to_vec),
            // The pixels begin.
            0xda => break,
            _ => {}
        }
        rest = &rest[4 + segment.len()..];
    }
    let (width, height) = size?;
    let [parameters, cascade] = about.map_or([None, None], exif::read);
    Some(Metadata { format: "JPEG", width: width.into(), height: height.into(), parameters, cascade })
}
