//! `cascade-rt generate`: pictures from prompts, or Stage C's latents alone.

use std::path::PathBuf;
use std::time::Instant;

use super::given::Given;
use super::image_prompts;
use super::initial::Initial;
use super::interrupt::{after_a_step, at_once};
use super::output::Output;
use super::prompts;
use super::report::Report;
use super::setup::{Sampling, Setup, Size};
use super::tensors::Tensors;
use super::watch::Watch;
use crate::error::Result;
use crate::image::Record;
use crate::noise::NoiseKind;
use crate::pipeline::{Init, Inputs, Options, Pipeline, TextEmbeddings};
use crate::prompts::{Syntax, encode};
use crate::request::{Request, parse_whole};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the picture shows. May be empty.
    #[arg(required_unless_present_any = ["prompts", "text", "image"], env = "CASCADE_PROMPT")]
    prompt: Option<String>,
    #[command(flatten)]
    setup: Setup,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    size: Size,
    /// What guidance leads away from.
    #[arg(short, long, value_name = "TEXT", default_value = "", env = "CASCADE_NEGATIVE")]
    negative: String,
    /// Where the noise starts. The same seed makes the same picture.
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<u64>, allow_negative_numbers = true, env = "CASCADE_SEED")]
    seed: u64,
    /// Where noise comes from: torch and torch-bf16 repeat what a diffusers CPU
    /// generator draws in f32 and bf16; philox gives every picture its own stream.
    #[arg(long, value_name = "KIND", default_value = "torch", env = "CASCADE_NOISE")]
    noise: NoiseKind,
    /// What parentheses and brackets in prompts mean: plain text, or weights as in webui (A1111) or comfyui.
    ///
    /// `(word:1.3)` is 1.3 times as strong, `(word)` 1.1 times, in webui `[word]` 1/1.1 times, and BREAK begins a new
    /// chunk of 75 tokens. With webui and comfyui, prompts may be longer than the 75 tokens that the text encoder takes.
    #[arg(long, value_name = "SYNTAX", default_value = "plain", env = "CASCADE_PROMPT_SYNTAX")]
    prompt_syntax: Syntax,
    /// File with one prompt a line. Empty lines are skipped.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", env = "CASCADE_PROMPTS")]
    prompts: Option<PathBuf>,
    /// Take encoded text from this safetensors file, which `encode` or diffusers wrote, instead of a prompt.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompts", "negative"], env = "CASCADE_TEXT")]
    text: Option<PathBuf>,
    /// Show something like this picture (PNG, JPEG, WebP), with or without a prompt. Several are mixed; a weight, 1 unless
    /// given, says how strongly. A .safetensors file that `encode --image` wrote takes a picture's place.
    #[arg(long, value_name = "FILE[:WEIGHT]", env = "CASCADE_IMAGE")]
    image: Vec<image_prompts::Named>,
    #[command(flatten)]
    initial: Initial,
    /// Stop after Stage C, and write its latents and the text to the output, which ends in .safetensors, for
    /// `decode`.
    #[arg(long, env = "CASCADE_PRIOR_ONLY")]
    prior_only: bool,
    #[command(flatten)]
    output: Output,
    /// Print nothing but errors and results.
    #[arg(short, long, env = "CASCADE_QUIET")]
    quiet: bool,
    /// Start from `stage_c` and `stage_b` (f32, NCHW) of this safetensors file instead of noise.
    #[arg(long, value_name = "FILE", env = "CASCADE_LATENTS")]
    latents: Option<PathBuf>,
    /// Compare every node with its definition as it runs, and stop at the first
    /// that differs. Very slow.
    #[arg(long, env = "CASCADE_CHECK_NODES")]
    check_nodes: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let text = args.text.as_deref().map(Given::open).transpose()?;
    let (prompts, initial) = (image_prompts::read(&args.image)?, args.initial.read()?);
    let usual = Request::default();
    let mut request = args.sampling.apply(Request {
        width: args.size.width.unwrap_or(usual.width),
        height: args.size.height.unwrap_or(usual.height),
        seed: args.seed,
        count: args.size.count,
        noise: args.noise,
        ..asked(args, text.as_ref())?
    });
    let tags = args.setup.adapters.take_tags(&mut request.prompts)?;
    request.check()?;
    let outputs = match args.prior_only {
        true => args.output.plan_tensors()?,
        false => args.output.plan_pictures(request.images(), &[request.seed])?,
    };

    let model = args.setup.open_model_with(&tags, args.quiet)?;
    let read = [&args.prompts, &args.latents, &args.text].into_iter().flatten().map(PathBuf::as_path);
    let read = read.chain(args.image.iter().map(|image| image.path.as_path())).chain(args.initial.init.as_deref());
    let read = read.chain(args.setup.adapters.files(&tags));
    outputs.spare(model.files().into_iter().chain(read))?;
    if let Some(side) = model.native_size {
        (request.width, request.height) = (args.size.width.unwrap_or(side), args.size.height.unwrap_or(side));
    }
    let name = args.setup.model.name()?;
    let record = |image| Record {
        text: text.as_ref().map(Given::name),
        images: prompts.iter().map(image_prompts::Prompt::record).collect(),
        init: args.initial.record(),
        ..Record::new(&request, &name, image)
    };
    let latents = match &args.latents {
        Some(path) => Given::open(path)?.start_latents(&request, &model)?,
        None => [None, None],
    };
    let states: Option<TextEmbeddings> = match &text {
        Some(file) => Some(
            file.text(&model, true)?.ok_or_else(|| file.lacks("tensors `prompt_embeds` and `prompt_embeds_pooled`"))?,
        ),
        None => None,
    };
    let mut pipeline = Pipeline::new(model, args.setup.open_device()?)?;
    let device = pipeline.backend().device().name.clone();
    let mut report = Report::new(begin, args.output.json, args.quiet, &name, &device);

    let images = image_prompts::embed(&prompts, &mut pipeline, args.check_nodes)?;
    let initial = args.initial.latents(initial, &request, &mut pipeline, args.check_nodes)?;
    let mut watch = Watch::new(args.quiet, args.output.json);
    let states = match (states, args.prompt_syntax) {
        (None, syntax) if syntax != Syntax::Plain => {
            Some(encode(&mut pipeline, &request.prompts, &request.negative, syntax, &mut watch)?)
        }
        (states, _) => states,
    };
    let options = Options {
        inputs: Inputs {
            text: states.as_ref(),
            image: images.as_ref(),
            init: initial.as_ref().map(|latents| Init { latents, strength: args.initial.strength }),
            start_c: latents[0].as_ref(),
            start_b: latents[1].as_ref(),
            ..Inputs::default()
        },
        keep: outputs.dump.is_some(),
        check_nodes: args.check_nodes,
        observer: Some(&mut watch),
    };
    if args.prior_only {
        let (prior, times) = after_a_step(|| pipeline.prior(&request, options))?;
        report.times += times;
        let mut tensors = Tensors::default();
        tensors.append_images("stage_c", prior.stage_c);
        tensors.append_text(&TextEmbeddings { states: None, ..prior.text }, request.prompts.len());
        at_once(|| report.wrote(|| outputs.write(0, &tensors.to_bytes(outputs.name(0), Some(&record(0)))?)))?;
    } else {
        let times = after_a_step(|| {
            pipeline.run(&request, options, |batch| {
                at_once(|| {
                    let mut images = batch.images.iter().zip(batch.first..);
                    images.try_for_each(|(image, i)| report.wrote(|| outputs.write(i, &image.to_png(&record(i))?)))
                })
            })
        })?;
        report.times += times;
    }
    outputs.write_dump(&watch.dump)?;
    report.end(if args.prior_only { "latents" } else { "images" }, serde_json::json!({ "request": request }))
}

/// A request with the prompts that are given, and all else as usual.
fn asked(args: &Args, text: Option<&Given>) -> Result<Request> {
    let (prompts, negative) = match (text, &args.prompts) {
        (Some(file), _) => file.prompts(),
        (None, Some(path)) => (prompts::read(path)?, args.negative.clone()),
        // An image prompt may stand alone.
        (None, None) => (vec![args.prompt.clone().unwrap_or_default()], args.negative.clone()),
    };
    Ok(Request { prompts, negative, ..Request::default() })
}
