//! What the program prints: results to standard output, everything else to standard error.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};

use crate::error::{Error, Result};

/// Prints a line to standard error. If that fails, there is nowhere to report it.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// The text with control characters escaped, which a terminal would obey. JSON stays
/// valid JSON.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(control) {
        return text.into();
    }
    let escape = |c: char| if control(c) { format!("\\u{:04x}", u32::from(c)) } else { c.into() };
    text.chars().map(escape).collect()
}

/// Prints a line of results. It is no error if the reader has closed standard output.
pub(super) fn say(line: &str) -> Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// Prints text. It is no error if the reader has closed standard output.
pub(super) fn print(text: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Disk { path: "standard output".into(), action: "write to", source: e })
        }
        _ => Ok(()),
    }
}
