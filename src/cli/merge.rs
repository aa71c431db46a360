//! `cascade-rt merge`: two models mixed, or adapters merged into one.

use clap::builder::{PathBufValueParser, TypedValueParser};

use super::adapters::{self, Chosen};
use super::convert::{Source, Target};
use super::model::{ModelArgs, locate};
use super::note;
use crate::error::{Error, Result};
use crate::files::Location;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cascade-rt merge stable-cascade finetuned --ratio 0.3 -o mixed/
  cascade-rt merge stage_c.safetensors finetuned.safetensors --ratio 0.3 -o mixed.safetensors
  cascade-rt merge -m stable-cascade --lora style.safetensors:0.8 -o styled/")]
pub(super) struct Args {
    /// Two models to mix, each a folder or a file of weights. Networks that the second lacks stay as the first has them.
    #[arg(value_name = "MODEL", num_args = 2, requires = "ratio", conflicts_with = "lora", value_parser = PathBufValueParser::new().map(locate))]
    models: Vec<Location>,
    /// The second model's share, 0 to 1: of every weight, 1 - R of the first and R of the second.
    #[arg(long, value_name = "R", requires = "models", value_parser = parse_ratio, allow_hyphen_values = true)]
    ratio: Option<f32>,
    /// Merge this adapter into the model, with this strength; may be given several times. As `generate --lora`.
    #[arg(long, value_name = "FILE[:STRENGTH]", required_unless_present = "models")]
    lora: Vec<Chosen>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,
}

/// A share: 0 to 1.
fn parse_ratio(s: &str) -> std::result::Result<f32, String> {
    let ratio = s.trim().parse().ok().filter(|ratio: &f32| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("expected a share from 0 to 1, got `{s}`"))
}

pub(super) fn run(args: &Args) -> Result<()> {
    let quiet = args.target.quiet;
    let source = match (&args.models[..], args.ratio) {
        ([first, second], Some(ratio)) => {
            let mut source = Source::at(first)?;
            let other = Source::at(second)?;
            source.reads.extend(other.reads);
            let kept = source.networks.mix(other.networks, ratio)?;
            kept.iter().filter(|_| !quiet).for_each(|kind| note(&format!("as in {}: {kind}", first.display())));
            source
        }
        _ if !args.model.is_given() => {
            return Err(Error::Request {
                what: "--model".into(),
                expected: "the model that adapters are merged into".into(),
                found: "none".into(),
            });
        }
        _ => {
            let mut source = Source::of(&args.model)?;
            let chosen: Vec<&Chosen> = args.lora.iter().collect();
            adapters::apply(&chosen, quiet, |given| {
                let with_tokens = given.iter().filter(|(adapter, _)| !quiet && !adapter.new_tokens().is_empty());
                with_tokens.for_each(|(adapter, _)| {
                    note(&format!("left out: new tokens of {}, which no model holds", adapter.path().display()));
                });
                source.networks.adapt(given)
            })?;
            source.reads.extend(chosen.iter().map(|chosen| chosen.path().to_owned()));
            source
        }
    };
    args.target.write(&source.networks, source.is_folder, &source.reads)
}
