//! `cascade-rt decode`: pictures from Stage C's latents, which `generate --prior-only` or another program wrote.

use std::path::PathBuf;
use std::time::Instant;

use super::given::Given;
use super::jobs::Job;
use super::make::Making;
use super::output::{Output, Series};
use super::report::Report;
use super::seed::Seed;
use super::setup::Setup;
use super::watch::Watch;
use super::{PICTURE, note};
use crate::error::{Error, Result};
use crate::image::{Origin, Record};
use crate::model::Model;
use crate::noise::NoiseKind;
use crate::pipeline::{HostTensor, Inputs, Pipeline};
use crate::request::{Request, parse_one_guidance, parse_one_steps, parse_whole};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `generate --prior-only` wrote; or another safetensors file with `stage_c` or `image_embeddings`.
    file: PathBuf,
    #[command(flatten)]
    setup: Setup,
    /// Seeds of Stage B's noise, like 1,2,3: every one makes all pictures, picture k with seed N + k. `random` or -1
    /// draws one. Without any, the file's.
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', allow_negative_numbers = true, help_heading = PICTURE)]
    seeds: Vec<Seed>,
    /// Width in pixels, a multiple of 8 from 64 up. Without it, the width that the latents were made for.
    #[arg(short = 'W', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, help_heading = PICTURE)]
    width: Option<u32>,
    /// Height in pixels, like the width.
    #[arg(short = 'H', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, help_heading = PICTURE)]
    height: Option<u32>,
    /// Denoising steps of Stage B. Without it, those that the file asks for, or 10.
    #[arg(long, value_name = "B", value_parser = parse_one_steps, allow_hyphen_values = true, help_heading = PICTURE)]
    steps: Option<u32>,
    /// Guidance of Stage B. 1 and below is off. Without it, what the file asks for, or 0.
    #[arg(long, value_name = "B", value_parser = parse_one_guidance, allow_hyphen_values = true, help_heading = PICTURE)]
    guidance: Option<f32>,
    #[command(flatten)]
    method: super::method::Args,
    /// Where noise comes from: torch, torch-bf16, torch-batch, torch-batch-bf16 or philox. Without it, as the file
    /// says, or torch.
    #[arg(long, value_name = "KIND", help_heading = PICTURE)]
    noise: Option<NoiseKind>,
    /// What the pictures show, for files without encoded text, or instead of it.
    #[arg(long, value_name = "TEXT", help_heading = PICTURE)]
    prompt: Option<String>,
    /// What guidance leads away from.
    #[arg(short, long, value_name = "TEXT", requires = "prompt", help_heading = PICTURE)]
    negative: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    making: Making,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let file = Given::open(&args.file)?;
    let model = args.setup.open_model(args.making.quiet)?;
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
        seeds => seeds.iter().map(|seed| seed.value()).collect(),
    };
    for seed in args.seeds.iter().filter(|seed| matches!(seed, Seed::Random(_))) {
        note(&format!("seed: {}", seed.value()));
    }
    if let Some(twice) = seeds.iter().enumerate().find(|(i, seed)| seeds[..*i].contains(seed)) {
        return Err(Error::Request {
            what: "--seeds".into(),
            expected: "different seeds".into(),
            found: format!("{} twice", twice.1),
        });
    }
    let series = seeds.iter().map(|&seed| Series { seed, images: request.images(), output: None });
    let outputs = args.output.plan_pictures(&series.collect::<Vec<_>>(), [None; 2])?;
    outputs.spare(args.setup.reads(&model)?.into_iter().chain([args.file.clone()]))?;
    let opened = args.setup.open_device_of(None)?;
    let job = |(run, &seed): (usize, &u64)| Job::new(Request { seed, ..request.clone() }, run * request.images());
    let jobs = seeds.iter().enumerate().map(job);
    let whole = |job: &Job| -> Result<Record> {
        Ok(Record {
            images: file.record.as_ref().map_or_else(Vec::new, |record| record.images.clone()),
            init: file.record.as_ref().and_then(|record| record.init.clone()),
            text: file.record.as_ref().and_then(|record| record.text.clone()).filter(|_| text.is_some()),
            prior: origin(&file, &job.request),
            ..args.setup.record(&job.request, &model, &opened, None)?
        })
    };
    let jobs: Vec<(Job, Record)> = jobs.map(|job| whole(&job).map(|record| (job, record))).collect::<Result<_>>()?;
    let mut pipeline = Pipeline::new(model, opened.backend)?;
    let mut report = Report::new(begin, args.output.json, args.making.quiet, &jobs[0].1, pipeline.backend());

    let mut watch = Watch::new(args.making.quiet, args.output.json);
    watch.about(pipeline.model());
    let inputs = Inputs { text: text.as_ref(), stage_c: Some(&stage_c), ..Inputs::default() };
    args.making.pictures(&mut pipeline, &jobs, inputs, &outputs, &mut watch, &mut report)?;
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
    if args.width.is_some() || args.height.is_some() {
        // The picture's size is asked for, of whichever pass the latents are.
        request = request.last_pass();
    }
    let preset = args.method.preset(request.clone());
    (request.steps.1, request.method.1) = (preset.steps.1, preset.method.1);
    if args.steps.is_some() {
        request.method.1.times.clear();
    }
    Ok(args.method.apply_to_stage_b(Request {
        width: args.width.unwrap_or(request.width),
        height: args.height.unwrap_or(request.height),
        steps: (request.steps.0, args.steps.unwrap_or(request.steps.1)),
        guidance: (request.guidance.0, args.guidance.unwrap_or(request.guidance.1)),
        noise: args.noise.unwrap_or(request.noise),
        ..request
    }))
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
    let Some(record) = &file.record else { return Some(Origin::File(file.from(0))) };
    if let Some(origin) = &record.prior {
        return Some(origin.clone());
    }
    let made = &record.request;
    // Settings of Stage B do not matter to Stage C.
    let same = Request {
        steps: (made.steps.0, request.steps.1),
        guidance: (made.guidance.0, request.guidance.1),
        method: (made.method.0.clone(), request.method.1.clone()),
        ..made.clone()
    };
    (same != *request).then(|| Origin::Request { request: made.clone().into(), image: 0 })
}
