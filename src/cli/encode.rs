//! `cascade-rt encode`: prompts to text states, for other runs and other programs.

use std::path::PathBuf;
use std::time::Instant;

use super::interrupt::{after_a_step, at_once};
use super::jobs::{Job, jobs};
use super::output::Output;
use super::prompts::{self, Line};
use super::report::Report;
use super::setup::Setup;
use super::tensors::Tensors;
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::pipeline::{Options, Pipeline};
use crate::request::Request;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What pictures are to show, may be empty; or - for what standard input holds.
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    prompt: Option<String>,
    /// File with one prompt a line, or - for standard input. Empty lines are skipped.
    #[arg(long, value_name = "FILE|-", conflicts_with = "prompt")]
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
    let lines = match (&args.prompts, &args.prompt) {
        (Some(path), _) => prompts::read(path)?,
        (None, prompt) => {
            prompt.iter().map(|prompt| prompts::one(prompt).map(|text| Line::of(&text))).collect::<Result<_>>()?
        }
    };
    let base = Request { negative: args.negative.clone(), ..Request::default() };
    let jobs = jobs(&lines, &base, [false; 2], true)?;
    let [Job { request, .. }] = &jobs[..] else {
        return Err(Error::Request {
            what: "--prompts".into(),
            expected: "prompts without settings of their own, which text does not depend on".into(),
            found: "different ones".into(),
        });
    };
    let outputs = Output::file(args.output.clone(), args.force).plan_tensors()?;
    let model = args.setup.open_model(args.quiet)?;
    outputs.spare(args.setup.reads(&model)?.into_iter().chain(args.prompts.clone()))?;
    let opened = args.setup.open_device_of(None)?;
    let record = args.setup.record(request, &opened)?;
    let mut pipeline = Pipeline::new(model, opened.backend)?;
    let mut report = Report::new(begin, false, args.quiet, &record, pipeline.backend());

    let mut watch = Watch::new(args.quiet, false);
    let options = Options { observer: Some(&mut watch), ..Options::default() };
    let (text, times) = after_a_step(|| pipeline.encode_text(request, options))?;
    report.times += times;
    let mut tensors = Tensors::default();
    tensors.append_text(&text, request.prompts.len());
    at_once(|| report.wrote(|| outputs.write(0, &tensors.to_bytes(outputs.name(0), Some(&record))?)))?;
    report.end("text", serde_json::Value::Null)
}
