//! What can go wrong, said so that a person can act on it.

use std::io::ErrorKind;
use std::path::PathBuf;

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
    #[error("{what}: expected {expected}, got {found}")]
    Request {
        /// The field, e.g. `width`.
        what: String,
        /// The accepted range or form.
        expected: String,
        /// What was given.
        found: String,
    },

    /// A model, or a part of one, is not where it was looked for.
    #[error("{path}: {missing} not found; {remedy}")]
    ModelMissing {
        /// Where it was looked for.
        path: PathBuf,
        /// The part, e.g. "Stage C weights (prior/diffusion_pytorch_model.safetensors)".
        missing: String,
        /// What to do about it.
        remedy: String,
    },

    /// A model file is there but is not what it should be.
    #[error("{path}: expected {expected}, found {found}")]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What it should have been.
        expected: String,
        /// What it is.
        found: String,
    },

    /// One tensor of a model file is missing or has the wrong shape or type.
    #[error("{path}: tensor `{name}`: expected {expected}, found {found}")]
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
    #[error("device `{wanted}`: {found}; {remedy}")]
    Device {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
        /// What to do.
        remedy: String,
    },

    /// A shader is not what it should be.
    #[error("{path}: {}", message.trim_end())]
    Shader {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        message: String,
    },

    /// Reading or writing a file failed.
    #[error("{path}: cannot {action}: {source}{}", remedy(source))]
    Disk {
        /// The file.
        path: PathBuf,
        /// "read", "write", "create", …
        action: &'static str,
        /// The system's word.
        source: std::io::Error,
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
            Error::Shape { .. } | Error::NotFinite { .. } | Error::Check(_) => 1,
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
        _ => "",
    }
}
