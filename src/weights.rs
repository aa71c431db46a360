//! Learned tensors: mapped files, names, networks, models.
//!
//! ```text
//! mmap ─▶ file ─▶ checkpoint ─▶ model
//!                   ▲      ▲
//!                 names   kind
//! ```
//!
//! A weight is a range of a mapped file: opening costs milliseconds, and bytes
//! are read when a kernel or an upload first touches them.

pub mod checkpoint;
pub mod file;
pub mod kind;
pub mod mmap;
pub mod names;

pub use checkpoint::Checkpoint;
pub use kind::NetworkKind;
pub use mmap::install_sigbus_handler;
