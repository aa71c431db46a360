//! Learned tensors: mapped files, names, networks.
//!
//! ```text
//! mmap ─▶ file ─▶ index ─▶ checkpoint      paths
//!                            ▲
//!                       names, kind
//! ```
//!
//! A weight is a range of a mapped file: opening costs milliseconds, and bytes
//! are read when a kernel or an upload first touches them.

pub mod checkpoint;
pub mod file;
pub mod index;
pub mod kind;
pub mod mmap;
pub mod names;
pub mod paths;

pub use checkpoint::Checkpoint;
pub use kind::NetworkKind;
pub use mmap::install_sigbus_handler;
pub use paths::{ModelPaths, Overrides, PartFiles};
