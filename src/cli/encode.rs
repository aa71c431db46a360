//! `cascade-rt encode`: prompts to text states, for other runs and other programs.

use std::path::PathBuf;
use std::time::Instant;

use super::interrupt::{after_a_step, at_once};
use super::output::Output;
use super::prompts;
use super::report::Report;
use super::setup::Setup;
use super::tensors::Tensors;
use super::watch::Watch;
use crate::error::Result;
use crate::image::Record;
use crate::pipeline::{Options, Pipeline};
use crate::request::Request;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What pictures are to show. May be empty.
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    prompt: Option<String>,
    /// File with one prompt a line. Empty lines are skipped.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// What guidance is to lead away from.
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    negative: String,
    #[command(flatten)]
    setup: Setup,
    /// File that ends in .safetensors, or - for standard output. It gets prompt_embeds and prompt_embeds_pooled, a
    /// row for each prompt, and negative_prompt_embeds and negative_prompt_embeds_pooled, one row.
    #[arg(short, long, value_name = "FILE|-")]
    output: PathBuf,
    /// Replace a file that exists.
    #[arg(long)]
    force: bool,
    /// Print nothing but errors and results.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let prompts = match &args.prompts {
        Some(path) => prompts::read(path)?,
        None => args.prompt.iter().cloned().collect(),
    };
    let request = Request { prompts, negative: args.negative.clone(), ..Request::default() };
    request.check()?;
    let outputs = Output::file(args.output.clone(), args.force).plan_tensors()?;
    let model = args.setup.open_model(args.quiet)?;
    outputs.spare(args.setup.reads(&model)?.into_iter().chain(args.prompts.clone()))?;
    let mut pipeline = Pipeline::new(model, args.setup.open_device()?)?;
    let (name, device) = (args.setup.model.name()?, pipeline.backend().device().name.clone());
    let mut report = Report::new(begin, false, args.quiet, &name, &device);

    let mut watch = Watch::new(args.quiet, false);
    let options = Options { observer: Some(&mut watch), ..Options::default() };
    let (text, times) = after_a_step(|| pipeline.encode_text(&request, options))?;
    report.times += times;
    let mut tensors = Tensors::default();
    tensors.append_text(&text, request.prompts.len());
    let record = Record::new(&request, &name, 0);
    at_once(|| report.wrote(|| outputs.write(0, &tensors.to_bytes(outputs.name(0), Some(&record))?)))?;
    report.end("text", serde_json::Value::Null)
}
