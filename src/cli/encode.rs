//! `cascade-rt encode`: prompts to text states and pictures to embeddings, for other runs and other programs.

use std::path::PathBuf;
use std::time::Instant;

use super::image_prompts::{self, Named};
use super::interrupt::{after_a_step, at_once};
use super::jobs::{Job, jobs};
use super::output::Output;
use super::prompts::{self, Line};
use super::report::Report;
use super::setup::Setup;
use super::tensors::Tensors;
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::image::Record;
use crate::pipeline::{HostTensor, Options, Pipeline};
use crate::request::Request;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What pictures are to show, may be empty; or - for what standard input holds.
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["prompts", "image"])]
    prompt: Option<String>,
    /// File with one prompt a line, or - for standard input. Empty lines are skipped.
    #[arg(long, value_name = "FILE|-", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// Picture that becomes an image prompt, for `generate --image`. May be repeated.
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    image: Vec<Named>,
    /// What guidance is to lead away from.
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    negative: String,
    #[command(flatten)]
    setup: Setup,
    /// File that ends in .safetensors, or - for standard output. It gets prompt_embeds and prompt_embeds_pooled, a
    /// row for each prompt, and negative_prompt_embeds and negative_prompt_embeds_pooled, one row; and image_embeds, a
    /// row for each picture, times its weight.
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
    let has_text = !lines.is_empty();
    let lines = if has_text { lines } else { vec![Line::of("")] };
    let images = image_prompts::read(&args.image)?;
    let base = Request { negative: args.negative.clone(), ..Request::default() };
    let jobs = jobs(&lines, &base, [false; 2], true)?;
    let [Job { request, .. }] = &jobs[..] else {
        return Err(Error::Request {
            what: "--prompts".into(),
            expected: "prompts without settings of their own, which text does not depend on".into(),
            found: "different ones".into(),
        });
    };
    let outputs = Output::file(args.output.clone(), args.force).plan_tensors(None)?;
    let model = args.setup.open_model(args.quiet)?;
    let given = args.prompts.clone().into_iter().chain(args.image.iter().map(|image| image.path.clone()));
    outputs.spare(args.setup.reads(&model)?.into_iter().chain(given))?;
    let opened = args.setup.open_device_of(None)?;
    let shown = images.iter().map(image_prompts::Prompt::record).collect();
    let record = Record { images: shown, ..args.setup.record(request, &model, &opened, None)? };
    let mut pipeline = Pipeline::new(model, opened.backend)?;
    let mut report = Report::new(begin, false, args.quiet, &record, pipeline.backend());

    let mut tensors = Tensors::default();
    if has_text {
        let mut watch = Watch::new(args.quiet, false);
        watch.about(pipeline.model());
        let options = Options { observer: Some(&mut watch), ..Options::default() };
        let (text, times) = after_a_step(|| pipeline.encode_text(request, options))?;
        report.times += times;
        tensors.append_text(&text, request.prompts.len());
    }
    if let Some(HostTensor { shape, values }) = image_prompts::embed(&images, &mut pipeline, false)? {
        tensors.append("image_embeds", vec![shape.w, shape.c], values);
    }
    at_once(|| report.wrote(|| outputs.write(0, &tensors.to_bytes(outputs.name(0), Some(&record))?)))?;
    report.end("encoded", serde_json::Value::Null)
}
