//! Files of prompts.

use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Longest file of prompts, in bytes.
const LIMIT: u64 = 64 << 20;

/// The prompts in a file: one a line, empty lines skipped.
///
/// # Errors
/// If the file cannot be read, is not UTF-8, is too long, or holds no prompt.
pub(super) fn read(path: &Path) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::Disk { path: path.to_owned(), action: "read", source })?;
    let wrong = |found: String| Error::Request {
        what: format!("--prompts {}", path.display()),
        expected: "UTF-8 text with one prompt a line, at most 64 MiB".into(),
        found,
    };
    if bytes.len() as u64 > LIMIT {
        return Err(wrong("more".into()));
    }
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.utf8_error().to_string()))?;
    let lines = text.trim_start_matches('\u{feff}').lines();
    let prompts: Vec<String> = lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if prompts.is_empty() { Err(wrong("no prompt".into())) } else { Ok(prompts) }
}
