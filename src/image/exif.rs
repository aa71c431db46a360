//! Records in EXIF data: `parameters` as the user's comment, as other programs for such pictures have it, and the
//! record itself as the maker's note.

use std::io::Cursor;

use exif::experimental::Writer;
use exif::{Field, In, Reader, Tag, Value};

use super::Record;
use crate::error::{Error, Result};

/// What a comment in UTF-16 begins with.
const UNICODE: &[u8] = b"UNICODE\0";
/// What our note begins with, since cameras have notes too.
const NOTE: &[u8] = b"cascade-rt\0";

/// The record as EXIF data, a TIFF file without pixels.
///
/// # Errors
/// [`Error::Request`] if it is more than such a file can hold.
pub(super) fn write(record: &Record) -> Result<Vec<u8>> {
    let failed = |found: String| Error::Request {
        what: "prompts".into(),
        expected: "a record that fits into EXIF data".into(),
        found,
    };
    let json = serde_json::to_vec(record).map_err(|e| failed(e.to_string()))?;
    let comment: Vec<u8> = record.parameters().encode_utf16().flat_map(u16::to_be_bytes).collect();
    let undefined = |tag, bytes: Vec<u8>| Field { tag, ifd_num: In::PRIMARY, value: Value::Undefined(bytes, 0) };
    let software = Value::Ascii(vec![record.program.clone().into_bytes()]);
    let fields = [
        Field { tag: Tag::Software, ifd_num: In::PRIMARY, value: software },
        undefined(Tag::UserComment, [UNICODE, &comment].concat()),
        undefined(Tag::MakerNote, [NOTE, &json].concat()),
    ];
    let mut writer = Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut out = Cursor::new(Vec::new());
    writer.write(&mut out, false).map_err(|e| failed(e.to_string()))?;
    Ok(out.into_inner())
}

/// `parameters` and the record's text in somebody's EXIF data, as far as it has them.
pub(super) fn read(data: Vec<u8>) -> [Option<String>; 2] {
    let Ok(exif) = Reader::new().read_raw(data) else { return [None, None] };
    let bytes = |tag| match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Undefined(bytes, _) => Some(bytes.clone()),
        _ => None,
    };
    let parameters = bytes(Tag::UserComment).and_then(|comment| {
        let text = comment.strip_prefix(UNICODE)?;
        let units: Vec<u16> = text.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        String::from_utf16(&units).ok()
    });
    let note = bytes(Tag::MakerNote).and_then(|note| String::from_utf8(note.strip_prefix(NOTE)?.to_vec()).ok());
    [parameters, note]
}
