//! Manual pages.

use crate::error::{Error, Result};

/// A manual page in roff.
pub(super) fn page(command: Option<&str>) -> Result<Vec<u8>> {
    let mut program = super::parser();
    program.build();
    let page = match command {
        None => program,
        Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| Error::Request {
            what: "COMMAND".into(),
            expected: "a command of `cascade-rt --help`".into(),
            found: name.into(),
        })?,
    };
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(page).render(&mut text);
    rendered.map_err(|source| Error::Disk { path: "standard output".into(), action: "write to", source })?;
    Ok(text)
}
