//! What each network is made of: sizes read from `config.json` or inferred from
//! a checkpoint's tensors.
//!
//! A config is checked before anything is built from it: numbers are bounded and
//! lists match. That a checkpoint has the tensors that the sizes imply is checked
//! where networks can be recorded, in [`tensors`](super::tensors).

mod clip;
mod controlnet;
mod effnet;
mod infer;
mod previewer;
mod stage_a;
mod unet;

pub use clip::{Activation, ClipTextConfig, ClipVisionConfig};
pub use controlnet::{Backbone, ControlNetConfig};
pub use effnet::{EffnetBackbone, EffnetConfig, Layer};
pub use previewer::PreviewerConfig;
pub use stage_a::StageAConfig;
pub use unet::{Block, UNetConfig};

use std::ops::RangeInclusive;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files::Location;
use crate::weights::NetworkKind;

/// The `config.json` of a network of this kind and these sizes, with the class that `diffusers` or `transformers` makes of it.
pub fn to_json(kind: NetworkKind, sizes: &impl Serialize) -> Value {
    let mut config = match kind {
        // A dropout for all levels, which `diffusers` wants; it plays no part.
        NetworkKind::StageB | NetworkKind::StageC => {
            json!({"_class_name": "StableCascadeUNet", "_diffusers_version": "0.29.0", "dropout": 0.0})
        }
        NetworkKind::StageA => json!({"_class_name": "PaellaVQModel", "_diffusers_version": "0.29.0"}),
        NetworkKind::TextEncoder => {
            json!({"architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model"})
        }
        NetworkKind::VisionEncoder => {
            json!({"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"})
        }
        _ => json!({}),
    };
    let sizes = serde_json::to_value(sizes).expect("sizes are plain data");
    if let (Value::Object(all), Value::Object(sizes)) = (&mut config, sizes) {
        all.extend(sizes);
    }
    config
}

/// Says, in messages about a tensor, what its dimensions follow from: a file, or the other tensors.
fn source_of(config: Option<&Location>) -> String {
    config.map_or("as the other tensors imply".to_owned(), |file| format!("as {} says", file.display()))
}

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
