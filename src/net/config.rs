//! What each network is made of: sizes read from `config.json` or inferred from
//! a checkpoint's tensors, and the table of tensors that they imply.
//!
//! A config is checked before anything is built from it: numbers are bounded,
//! lists match, and every tensor of the [table](tensors) is in the checkpoint.

mod clip;
mod infer;
mod stage_a;
mod tables;
mod unet;

pub use clip::{Activation, ClipTextConfig, ClipVisionConfig};
pub use stage_a::StageAConfig;
pub use tables::{
    EFFNET_STAGES, EffnetBlock, EffnetStage, PREVIEWER_UNITS, PreviewerConv, clip_text_tensors, clip_vision_tensors,
    effnet_tensors, previewer_tensors, stage_a_tensors, tensors,
};
pub use unet::{Block, UNetConfig};

use std::ops::RangeInclusive;
use std::path::Path;

use crate::error::{Error, Result};

/// Name and dimensions of each tensor of a network, in execution order.
pub type Table = Vec<(String, Vec<usize>)>;

/// Widths and channel counts; bounds what a config can make us allocate.
const CHANNELS: RangeInclusive<usize> = 1..=65_536;
/// Layers of one level or tower.
const LAYERS: RangeInclusive<usize> = 1..=256;

/// A config being checked: adds the file to messages.
struct Check<'a> {
    path: &'a Path,
}

impl Check<'_> {
    fn bad(&self, field: &str, expected: String, found: String) -> Error {
        let found = format!("{found}; use the config that the weights came with");
        Error::Model { path: self.path.to_owned(), expected: format!("`{field}` {expected}"), found }
    }

    /// `value` lies in `range`.
    fn within(&self, field: &str, value: usize, range: RangeInclusive<usize>) -> Result<()> {
        if range.contains(&value) {
            return Ok(());
        }
        Err(self.bad(field, format!("from {} to {}", range.start(), range.end()), value.to_string()))
    }

    /// `list` has `len` entries, all in `range`.
    fn list(&self, field: &str, list: &[usize], len: usize, range: RangeInclusive<usize>) -> Result<()> {
        self.len(field, list.len(), len)?;
        list.iter().try_for_each(|&value| self.within(field, value, range.clone()))
    }

    /// A list has one entry per level.
    fn len(&self, field: &str, len: usize, wanted: usize) -> Result<()> {
        if len == wanted {
            return Ok(());
        }
        Err(self.bad(field, format!("with {wanted} entries"), format!("{len} entries")))
    }

    /// `heads` divide `width`.
    fn heads(&self, field: &str, heads: usize, width: usize) -> Result<()> {
        if heads > 0 && width.is_multiple_of(heads) {
            return Ok(());
        }
        Err(self.bad(field, format!("that divides the width {width}"), heads.to_string()))
    }
}
