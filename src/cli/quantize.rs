//! `cascade-rt quantize`: a model with int8 weights.

use super::convert::{Source, Target};
use super::model::ModelArgs;
use crate::error::Result;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cascade-rt quantize -m stable-cascade -o stable-cascade-int8/
  cascade-rt quantize -m stable-cascade --keep stage_b. --keep .attention. -o mostly-wide/")]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Leave weights as they are whose names contain this text, such as `up_blocks.0.` or, of one network,
    /// `stage_b.up_blocks.0.`; the others are stage_c, text_encoder and image_encoder. May be given several times.
    #[arg(long, value_name = "TEXT")]
    keep: Vec<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut source = Source::of(&args.model)?;
    source.networks.quantise(args.keep.clone())?;
    args.target.write(&source.networks, source.is_folder, &source.reads)
}
