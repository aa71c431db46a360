//! `cascade-rt upscale`: a picture twice as wide and as high, by the super-resolution ControlNet.

use std::path::PathBuf;
use std::time::Instant;

use super::PICTURE;
use super::control::{self, Controlled, parse_strength};
use super::jobs::Job;
use super::make::Making;
use super::output::{Output, Series};
use super::report::Report;
use super::setup::Setup;
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::image::Record;
use crate::picture;
use crate::pipeline::{Inputs, Pipeline};
use crate::request::{MAX_SIDE, Request, parse_guidance, parse_steps, parse_whole};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  cascade-rt upscale small.png -m stable-cascade --control super_resolution.safetensors -o large.png

Without a ControlNet, `generate --hires` makes a picture at a small size and then at a larger one, and
`generate --init small.png --strength 0.4 -W 2048 -H 2048` changes one that is there.")]
pub(super) struct Args {
    /// Picture: PNG, JPEG or WebP. The result is twice as wide and as high, rounded down to multiples of 8, from 64 up.
    file: PathBuf,
    /// The ControlNet for super-resolution (safetensors).
    #[arg(long, value_name = "FILE", help_heading = PICTURE)]
    control: PathBuf,
    /// How strongly it counts.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = parse_strength, allow_negative_numbers = true, help_heading = PICTURE)]
    control_strength: f32,
    /// What the picture shows.
    #[arg(long, value_name = "TEXT", default_value = "", help_heading = PICTURE)]
    prompt: String,
    #[command(flatten)]
    setup: Setup,
    /// Denoising steps of Stage C, then Stage B; one number is Stage C's. [default: 20,10]
    #[arg(long, value_name = "C[,B]", value_parser = parse_steps, allow_hyphen_values = true, help_heading = PICTURE)]
    steps: Option<(u32, u32)>,
    /// Guidance of Stage C, then Stage B; one number is Stage C's. 1 and below is off, as this ControlNet is meant to be used.
    /// [default: 1,0]
    #[arg(long, value_name = "C[,B]", value_parser = parse_guidance, allow_hyphen_values = true, help_heading = PICTURE)]
    guidance: Option<(f32, f32)>,
    /// Where the noise starts.
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<u64>, allow_negative_numbers = true, help_heading = PICTURE)]
    seed: u64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    making: Making,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let Making { check_nodes, quiet, .. } = args.making;
    let controlled = Controlled::of_small(&args.control, &args.file, args.control_strength)?;
    let small = picture::read(&args.file)?;
    if small.width.max(small.height) > MAX_SIDE / 2 {
        return Err(Error::Picture {
            path: args.file.clone(),
            expected: format!("sides of at most {} pixels, which become twice as many", MAX_SIDE / 2),
            found: format!("{}×{}", small.width, small.height),
        });
    }
    let twice = |side: u32| (2 * side / 8 * 8).max(64);
    let usual = Request::new(&args.prompt);
    let request = Request {
        width: twice(small.width),
        height: twice(small.height),
        steps: args.steps.unwrap_or(usual.steps),
        guidance: args.guidance.unwrap_or((1.0, usual.guidance.1)),
        seed: args.seed,
        ..usual
    };
    request.check()?;
    let outputs = args.output.plan_pictures(&[Series { seed: request.seed, images: 1, output: None }], [None; 2])?;
    let model = args.setup.open_model(quiet)?;
    let given = [args.file.clone(), args.control.clone()];
    outputs.spare(args.setup.reads(&model)?.into_iter().chain(given))?;
    let opened = args.setup.open_device_of(None)?;
    let record = Record { controls: vec![controlled.record()], ..args.setup.record(&request, &model, &opened, None)? };
    let mut pipeline = Pipeline::new(model, opened.backend)?;
    let mut report = Report::new(begin, args.output.json, quiet, &record, pipeline.backend());
    let mut watch = Watch::new(quiet, args.output.json);
    watch.about(pipeline.model());
    let controlled = [controlled];
    let additions = control::additions(&controlled, [&request].into_iter(), None, &mut pipeline, check_nodes)?;
    let control: Vec<_> = controlled.iter().zip(&additions).map(|(one, of)| one.with(of)).collect();
    let inputs = Inputs { control: &control, ..Inputs::default() };
    let jobs = [(Job::new(request.clone(), 0), record)];
    args.making.pictures(&mut pipeline, &jobs, inputs, &outputs, &mut watch, &mut report)?;
    outputs.write_dump(&watch.dump)?;
    report.end("images", serde_json::json!({ "request": request }))
}
