//! What can go wrong, said so that a person can act on it.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Shorthand used by the whole library.
pub type Result<T> = std::result::Result<T, Error>;

/// Library errors. Every message says where, what was expected, what was found
/// and, where there is one, the remedy.
///
/// A variant exists when a caller treats the case differently, in practice when
/// its [exit code](Error::exit_code) or its fields differ.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the request is outside what the program accepts.
    #[error("{}: expected {}, got {}", short(.what), short(.expected), short(.found))]
    Request {
        /// The field, e.g. `width`.
        what: String,
        /// The accepted range or form.
        expected: String,
        /// What was given.
        found: String,
    },

    /// A model, or a part of one, is not where it was looked for.
    #[error("{}: {} not found; {remedy}", short_path(.path), short(.missing))]
    ModelMissing {
        /// Where it was looked for.
        path: PathBuf,
        /// The part, e.g. "Stage C weights (prior/diffusion_pytorch_model.safetensors)".
        missing: String,
        /// What to do about it.
        remedy: String,
    },

    /// A model file is there but is not what it should be.
    #[error("{}: expected {}, found {}", short_path(.path), short(.expected), short(.found))]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What it should have been.
        expected: String,
        /// What it is.
        found: String,
    },

    /// One tensor of a model file is missing or has the wrong shape or type.
    #[error("{}: tensor `{}`: expected {}, found {}", short_path(.path), short(.name), short(.expected), short(.found))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, in the naming scheme of the `diffusers` files.
        name: String,
        /// Expected shape and type.
        expected: String,
        /// Found shape and type, or "nothing".
        found: String,
    },

    /// A file that is to hold a picture does not, or not one that can be used.
    #[error("{path}: expected {expected}, found {found}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        expected: String,
        /// What it is.
        found: String,
    },

    /// An op was given operands that do not fit together.
    #[error("{at}: {op} takes {expected}, got {found}")]
    Shape {
        /// Where in the network, e.g. `down_blocks.0.1`.
        at: String,
        /// The op's name.
        op: &'static str,
        /// What the op takes.
        expected: String,
        /// The shapes that it was given.
        found: String,
    },

    /// A stage produced NaN or infinity.
    #[error("{stage} produced {count} values that are not finite{after}; {remedy}")]
    NotFinite {
        /// "Stage C", "Stage B", …
        stage: String,
        /// How many elements.
        count: u32,
        /// " after 20 steps", or empty.
        after: String,
        /// What to try.
        remedy: String,
    },

    /// The request needs more memory than there is.
    #[error("{device} has {free_mib} MiB free, this request needs {need_mib} MiB ({detail}); {remedy}")]
    DoesNotFit {
        /// The device's name.
        device: String,
        /// Memory that can be had, MiB.
        free_mib: u64,
        /// Memory needed, MiB.
        need_mib: u64,
        /// Where the memory would go.
        detail: String,
        /// A request that would fit.
        remedy: String,
    },

    /// Something is larger than the device takes in one piece, however much memory it has.
    #[error("{device} takes at most {limit_mib} MiB in one {piece}, {at} needs {need_mib} MiB; {remedy}")]
    TooLarge {
        /// The device's name.
        device: String,
        /// "binding" or "buffer".
        piece: &'static str,
        /// What is so large.
        at: String,
        /// The device's limit, MiB.
        limit_mib: u64,
        /// How large it is, MiB.
        need_mib: u64,
        /// What to do.
        remedy: String,
    },

    /// No device of the wanted kind answers.
    #[error("device `{}`: {}; {remedy}", short(.wanted), short(.found))]
    Device {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
        /// What to do.
        remedy: String,
    },

    /// A shader is not what it should be.
    #[error("{}: {}", short_path(.path), short(.message.trim_end()))]
    Shader {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        message: String,
    },

    /// Reading or writing a file failed.
    #[error("{}: cannot {action}: {source}{}", short_path(.path), remedy(.source))]
    Disk {
        /// The file.
        path: PathBuf,
        /// "read", "write", "create", …
        action: &'static str,
        /// The system's word.
        source: std::io::Error,
    },

    /// A hub of models does not give what was asked for.
    #[error("{}: {}; {remedy}", short(.at), short(.found))]
    Hub {
        /// The address.
        at: String,
        /// What it said instead.
        found: String,
        /// What to do.
        remedy: String,
    },

    /// A node's result differs from the reference, where nodes are checked.
    #[error("{0}")]
    Check(String),

    /// The user asked the program to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The process's exit code: 2 usage, 3 model, 4 does not fit, 5 device,
    /// 7 disk, 130 interrupted, 1 anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Request { .. } | Error::Picture { .. } | Error::Shader { .. } => 2,
            Error::ModelMissing { .. } | Error::Model { .. } | Error::Tensor { .. } => 3,
            Error::DoesNotFit { .. } | Error::TooLarge { .. } => 4,
            Error::Device { .. } => 5,
            Error::Disk { .. } => 7,
            Error::Interrupted => 130,
            Error::Shape { .. } | Error::NotFinite { .. } | Error::Hub { .. } | Error::Check(_) => 1,
        }
    }
}

/// What to do about a disk's complaint, where that is known.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "; check the path",
        ErrorKind::IsADirectory => "; name a file",
        ErrorKind::InvalidFilename => "; choose a shorter name",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; choose another folder, or change its permissions"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room, or choose another disk",
        ErrorKind::FileTooLarge => "; raise the limit on the size of files (`ulimit -f`), or choose another disk",
        _ => "",
    }
}

/// A text for a message, which may come from anybody's file: without control characters, which a terminal would obey,
/// and without its middle where it is longer than anybody reads.
pub(crate) fn short(text: &str) -> Cow<'_, str> {
    /// Bytes that are shown of the beginning and of the end.
    const SHOWN: [usize; 2] = [2000, 500];
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let escaped = |text: &str| -> String {
        text.chars().map(|c| if control(c) { format!("\\u{:04x}", u32::from(c)) } else { c.into() }).collect()
    };
    if text.len() > SHOWN[0] + SHOWN[1] {
        let (start, end) = (text.floor_char_boundary(SHOWN[0]), text.ceil_char_boundary(text.len() - SHOWN[1]));
        let (first, last) = (escaped(&text[..start]), escaped(&text[end..]));
        return format!("{first} […{} bytes…] {last}", end - start).into();
    }
    if text.contains(control) { escaped(text).into() } else { text.into() }
}

fn short_path(path: &Path) -> String {
    short(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every message that quotes a file is bounded, and no terminal obeys it.
    #[test]
    fn messages_are_bounded_and_printable() {
        let long = format!("begin\u{1b}[31m{}\u{7}end", "é".repeat(1 << 19));
        let text = || long.clone();
        let path = || PathBuf::from(text());
        for error in [
            Error::Request { what: text(), expected: text(), found: text() },
            Error::ModelMissing { path: path(), missing: text(), remedy: String::new() },
            Error::Model { path: path(), expected: text(), found: text() },
            Error::Tensor { path: path(), name: text(), expected: text(), found: text() },
            Error::Device { wanted: text(), found: text(), remedy: String::new() },
            Error::Hub { at: text(), found: text(), remedy: String::new() },
            Error::Shader { path: path(), message: text() },
            Error::Disk { path: path(), action: "read", source: ErrorKind::NotFound.into() },
        ] {
            let message = error.to_string();
            assert!(message.len() < 4 * 2600 + 100, "{} bytes", message.len());
            assert!(message.contains("begin\\u001b[31mé") && message.contains("é\\u0007end"), "{message}");
            assert!(message.contains(" bytes…] ") && !message.contains('\u{1b}'), "{message}");
        }
        assert_eq!(short("two\nlines\tof text"), "two\nlines\tof text");
    }
}
