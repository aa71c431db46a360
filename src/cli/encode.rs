//! `cascade-rt encode`: prompts to text states and pictures to embeddings or latents, for other runs and other programs.

use std::path::PathBuf;
use std::time::Instant;

use super::image_prompts::{self, Named};
use super::initial::{Fitting, size};
use super::interrupt::{after_a_step, at_once};
use super::output::Output;
use super::prompts;
use super::report::Report;
use super::setup::Setup;
use super::tensors::Tensors;
use super::watch::Watch;
use crate::error::Result;
use crate::image::Record;
use crate::picture;
use crate::pipeline::{HostTensor, Options, Pipeline};
use crate::request::{Request, parse_whole};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Picture (PNG, JPEG, WebP) that becomes latents of Stage C, for `decode`.
    #[arg(required_unless_present_any = ["prompt", "prompts", "image"], conflicts_with = "prompts")]
    picture: Option<PathBuf>,
    /// What pictures are to show. May be empty.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with one prompt a line. Empty lines are skipped.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// Picture that becomes an image prompt, for `generate --image`. May be repeated.
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    image: Vec<Named>,
    /// Width in pixels of the picture that is encoded, a multiple of 8 from 64 up. Without it, the picture's, rounded down
    /// to such a one.
    #[arg(short = 'W', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true)]
    width: Option<u32>,
    /// Height in pixels, like the width.
    #[arg(short = 'H', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true)]
    height: Option<u32>,
    #[command(flatten)]
    fitting: Fitting,
    /// What guidance is to lead away from.
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    negative: String,
    #[command(flatten)]
    setup: Setup,
    /// File that ends in .safetensors, or - for standard output. It gets stage_c, the picture's latents; prompt_embeds and prompt_embeds_pooled, a
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
    let prompts = match &args.prompts {
        Some(path) => prompts::read(path)?,
        None => vec![args.prompt.clone().unwrap_or_default()],
    };
    // Stage B is told a text with every picture's latents.
    let has_text = args.prompt.is_some() || args.prompts.is_some() || args.picture.is_some();
    let picture = args.picture.as_deref().map(picture::read).transpose()?;
    let images = image_prompts::read(&args.image)?;
    let mut request = Request { prompts, negative: args.negative.clone(), ..Request::default() };
    if let Some(picture) = &picture {
        (request.width, request.height) = size(picture, args.width, args.height);
    }
    request.check()?;
    let outputs = Output::file(args.output.clone(), args.force).plan_tensors()?;
    let model = args.setup.open_model(args.quiet)?;
    let read = args.prompts.as_deref().into_iter().chain(args.picture.as_deref());
    let read = read.chain(args.image.iter().map(|image| image.path.as_path()));
    outputs.spare(model.files().into_iter().chain(read))?;
    let mut pipeline = Pipeline::new(model, args.setup.open_device()?)?;
    let (name, device) = (args.setup.model.name()?, pipeline.backend().device().name.clone());
    let mut report = Report::new(begin, false, args.quiet, &name, &device);

    let mut tensors = Tensors::default();
    if has_text {
        let mut watch = Watch::new(args.quiet, false);
        let options = Options { observer: Some(&mut watch), ..Options::default() };
        let (text, times) = after_a_step(|| pipeline.encode_text(&request, options))?;
        report.times += times;
        tensors.append_text(&text, request.prompts.len());
    }
    if let Some(picture) = picture {
        let picture = args.fitting.fit.apply(&picture, request.width, request.height);
        tensors.append_images("stage_c", pipeline.encode_picture(&picture, request.sizes().c, false)?);
    }
    if let Some(HostTensor { shape, values }) = image_prompts::embed(&images, &mut pipeline, false)? {
        tensors.append("image_embeds", vec![shape.w, shape.c], values);
    }
    let images = images.iter().map(image_prompts::Prompt::record).collect();
    let record = Record { images, ..Record::new(&request, &name, 0) };
    at_once(|| report.wrote(|| outputs.write(0, &tensors.to_bytes(outputs.name(0), Some(&record))?)))?;
    report.end("encoded", serde_json::Value::Null)
}
