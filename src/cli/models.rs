//! Commands that write models.

use std::path::PathBuf;

use super::{ModelArgs, say};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::quantise;
use crate::synth::{self, Preset};
use crate::weights::Variant;

/// `cascade-rt synth-model`.
#[derive(Debug, clap::Args)]
pub(super) struct Synth {
    /// Size: mid (0.4 GB), lite (5 GB), large (12 GB).
    #[arg(value_name = "PRESET")]
    preset: Preset,
    /// Folder to make. It must not exist yet.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Synth {
    pub(super) fn run(&self) -> Result<()> {
        let bytes = synth::synthesise(self.preset, &self.dir)?;
        say(&format!("{}: {} MiB", self.dir.display(), bytes >> 20))
    }
}

/// `cascade-rt quantize`.
#[derive(Debug, clap::Args)]
pub(super) struct Quantise {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder to make, in the layout of diffusers. It must be empty if it exists.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Leave weights as they are whose names contain this text, such as `up_blocks.0.` or, of one network,
    /// `stage_b.up_blocks.0.`; the others are stage_c, text_encoder and image_encoder. May be given several times.
    #[arg(long, value_name = "TEXT")]
    keep: Vec<String>,
}

impl Quantise {
    pub(super) fn run(&self) -> Result<()> {
        let paths = self.model.find(Variant::Small)?;
        let mut model = Model::open(&paths)?;
        if model.is_int8() {
            return Err(Error::Model {
                path: model.stage_c.0.path.clone(),
                expected: "a model without int8 weights".into(),
                found: "one with some; quantize the model that it was made from".into(),
            });
        }
        model.quantise(&self.keep);
        let bytes = quantise::write(&model, &paths, &self.output)?;
        say(&format!("{}: {} MiB", self.output.display(), bytes >> 20))
    }
}
