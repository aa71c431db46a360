//! `cascade-rt decode`: pictures from Stage C's latents, which `generate --prior-only` or another program wrote.

use std::path::PathBuf;
use std::time::Instant;

use super::given::Given;
use super::interrupt::{after_a_step, at_once};
use super::output::Output;
use super::report::Report;
use super::setup::Setup;
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::image::{Origin, Record};
use crate::model::Model;
use crate::noise::NoiseKind;
use crate::pipeline::{HostTensor, Inputs, Options, Pipeline};
use crate::request::{Request, parse_one_guidance, parse_one_steps, parse_whole};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `generate --prior-only` wrote; or another safetensors file with `stage_c` or `image_embeddings`.
    file: PathBuf,
    #[command(flatten)]
    setup: Setup,
    /// Seeds of Stage B's noise, like 1,2,3: every one makes all pictures. Without any, the file's.
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', value_parser = parse_whole::<u64>, allow_negative_numbers = true)]
    seeds: Vec<u64>,
    /// Width in pixels, a multiple of 8 from 64 up. Without it, the width that the latents were made for.
    #[arg(short = 'W', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true)]
    width: Option<u32>,
    /// Height in pixels, like the width.
    #[arg(short = 'H', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true)]
    height: Option<u32>,
    /// Denoising steps of Stage B. Without it, those that the file asks for, or 10.
    #[arg(long, value_name = "B", value_parser = parse_one_steps, allow_hyphen_values = true)]
    steps: Option<u32>,
    /// Guidance of Stage B. 1 and below is off. Without it, what the file asks for, or 0.
    #[arg(long, value_name = "B", value_parser = parse_one_guidance, allow_hyphen_values = true)]
    guidance: Option<f32>,
    /// Where noise comes from: torch, torch-bf16 or philox. Without it, as the file says, or torch.
    #[arg(long, value_name = "KIND")]
    noise: Option<NoiseKind>,
    /// What the pictures show, for files without encoded text, or instead of it.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What guidance leads away from.
    #[arg(short, long, value_name = "TEXT", requires = "prompt")]
    negative: Option<String>,
    #[command(flatten)]
    output: Output,
    /// Print nothing but errors and results.
    #[arg(short, long)]
    quiet: bool,
    /// Compare every node with its definition as it runs, and stop at the first
    /// that differs. Very slow.
    #[arg(long)]
    check_nodes: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let file = Given::open(&args.file)?;
    let model = args.setup.open_model(args.quiet)?;
    let stage_c = file.stage_c(&model)?;
    let text = match args.prompt {
        Some(_) => None,
        None => Some(
            file.text(&model, false)?
                .ok_or_else(|| file.lacks("pooled text (`prompt_embeds_pooled`), or else --prompt to encode"))?,
        ),
    };
    let request = request(args, &file, &stage_c, &model)?;
    request.check()?;
    let seeds = match &args.seeds[..] {
        [] => vec![request.seed],
        seeds => seeds.to_vec(),
    };
    if let Some(twice) = seeds.iter().enumerate().find(|(i, seed)| seeds[..*i].contains(seed)) {
        return Err(Error::Request {
            what: "--seeds".into(),
            expected: "different seeds".into(),
            found: format!("{} twice", twice.1),
        });
    }
    let outputs = args.output.plan_pictures(request.images(), &seeds)?;
    outputs.spare(args.setup.reads(&model)?.into_iter().chain([args.file.clone()]))?;
    let mut pipeline = Pipeline::new(model, args.setup.open_device()?)?;
    let (name, device) = (args.setup.model.name()?, pipeline.backend().device().name.clone());
    let mut report = Report::new(begin, args.output.json, args.quiet, &name, &device);

    let mut watch = Watch::new(args.quiet, args.output.json);
    for (run, &seed) in seeds.iter().enumerate() {
        let request = Request { seed, ..request.clone() };
        let record = |image| Record {
            text: file.record.as_ref().and_then(|record| record.text.clone()).filter(|_| text.is_some()),
            prior: origin(&file, &request),
            ..Record::new(&request, &name, image)
        };
        let options = Options {
            inputs: Inputs { text: text.as_ref(), stage_c: Some(&stage_c), ..Inputs::default() },
            keep: outputs.dump.is_some(),
            check_nodes: args.check_nodes,
            observer: Some(&mut watch),
        };
        let times = after_a_step(|| {
            pipeline.run(&request, options, |batch| {
                at_once(|| {
                    let mut images = batch.images.iter().zip(batch.first..);
                    images.try_for_each(|(image, i)| {
                        let index = run * request.images() + i;
                        report.wrote(|| outputs.write(index, &image.to_png(&record(i))?))
                    })
                })
            })
        })?;
        report.times += times;
    }
    outputs.write_dump(&watch.dump)?;
    report.end("images", serde_json::json!({ "request": request, "seeds": seeds }))
}

/// The file's request, as far as the flags do not say otherwise.
fn request(args: &Args, file: &Given, stage_c: &HostTensor, model: &Model) -> Result<Request> {
    let images = stage_c.shape.n;
    let mut request = match &file.record {
        Some(record) => record.request.clone(),
        None => {
            let (prompts, negative) = file.prompts();
            // Every prompt has as many images; a file with one text for all, or with one for each, says how many.
            let (width, height) = size_of(stage_c, model);
            Request { count: (images / prompts.len()) as u32, prompts, negative, width, height, ..Request::default() }
        }
    };
    if request.images() != images {
        return Err(file.lacks(&format!("latents and text of as many images, {images} or a part of that")));
    }
    if let Some(prompt) = &args.prompt {
        request.prompts.fill(prompt.clone());
        request.negative = args.negative.clone().unwrap_or_default();
    }
    Ok(Request {
        width: args.width.unwrap_or(request.width),
        height: args.height.unwrap_or(request.height),
        steps: (request.steps.0, args.steps.unwrap_or(request.steps.1)),
        guidance: (request.guidance.0, args.guidance.unwrap_or(request.guidance.1)),
        noise: args.noise.unwrap_or(request.noise),
        ..request
    })
}

/// Width and height of the pictures that latents without a description are of: what the model was made for, if
/// its latents have this size, or else 42.67 times as large, as [`StageSizes`](crate::sizes::StageSizes) has it.
fn size_of(stage_c: &HostTensor, model: &Model) -> (u32, u32) {
    let side = |latent: usize| (latent * 128 / 3 / 8 * 8).max(64) as u32;
    let scaled = (side(stage_c.shape.w), side(stage_c.shape.h));
    let native = model.native_size.unwrap_or(Request::default().width);
    let of_native = Request { width: native, height: native, ..Request::default() }.sizes();
    if of_native.c == (stage_c.shape.h, stage_c.shape.w) { (native, native) } else { scaled }
}

/// Where the latents came from, unless `request` would make the same.
fn origin(file: &Given, request: &Request) -> Option<Origin> {
    let Some(record) = &file.record else { return Some(Origin::File(file.name())) };
    if let Some(origin) = &record.prior {
        return Some(origin.clone());
    }
    let made = &record.request;
    // Settings of Stage B do not matter to Stage C.
    let same = Request {
        steps: (made.steps.0, request.steps.1),
        guidance: (made.guidance.0, request.guidance.1),
        ..made.clone()
    };
    (same != *request).then(|| Origin::Request(made.clone().into()))
}
