//! Learned tensors: memory-mapped files, tensor names, and networks.
//!
//! ```text
//! mmap ─▶ file ─▶ index ─▶ checkpoint ─▶ component ─▶ lookup ─▶ paths
//!                            ▲     │        ▲
//!          names, kind, change, narrow    variant          foreign: what a file of another model is
//!                                  └─▶ layout, header: files that are written
//! cache: models that were fetched from a hub
//! ```
//!
//! A weight is a range of a mapped file. Opening a model therefore takes only milliseconds;
//! its bytes are read from disk when a kernel or an upload first accesses them.

pub mod cache;
pub mod change;
pub mod checkpoint;
mod component;
pub mod file;
pub(crate) mod foreign;
pub mod header;
pub mod index;
pub mod kind;
pub mod layout;
mod lookup;
pub mod mmap;
pub mod names;
mod narrow;
pub mod paths;
mod variant;

pub use change::{Changes, Copied, LowRank};
pub use checkpoint::Checkpoint;
pub use kind::NetworkKind;
pub use layout::{Layout, Place};
pub use lookup::Lookup;
pub use mmap::install_sigbus_handler;
pub use narrow::Narrow;
pub use paths::{ModelPaths, Overrides, PartFiles, Source};
pub use variant::Variant;
