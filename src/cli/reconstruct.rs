//! `cascade-rt reconstruct`: a picture, encoded and decoded again.

use std::path::PathBuf;
use std::time::Instant;

use super::initial::Fitting;
use super::interrupt::at_once;
use super::jobs::Job;
use super::make::Making;
use super::output::{Output, Series};
use super::report::Report;
use super::setup::Setup;
use super::watch::Watch;
use super::{PICTURE, note, say};
use crate::error::Result;
use crate::image::{Image, Record};
use crate::picture::{self, psnr};
use crate::pipeline::{Inputs, Pipeline};
use crate::request::{Request, parse_one_steps, parse_whole};

/// The stage whose latents a picture is encoded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    /// Stage A's, a quarter of the picture's sides, which it encodes itself.
    A,
    /// Stage C's, a 42.67th of the picture's sides, which the EfficientNet encodes; Stages B and A decode.
    C,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cascade-rt reconstruct photo.jpg -m stable-cascade -o again.png")]
pub(super) struct Args {
    /// Picture: PNG, JPEG or WebP.
    file: PathBuf,
    #[command(flatten)]
    setup: Setup,
    /// Whose latents the picture is encoded as.
    #[arg(long, value_enum, default_value_t = Stage::C, help_heading = PICTURE)]
    stage: Stage,
    /// What the picture shows, which Stage B is told.
    #[arg(long, value_name = "TEXT", default_value = "", help_heading = PICTURE)]
    prompt: String,
    #[command(flatten)]
    fitting: Fitting,
    /// Denoising steps of Stage B.
    #[arg(long, value_name = "B", default_value_t = Request::default().steps.1, value_parser = parse_one_steps, allow_hyphen_values = true, help_heading = PICTURE)]
    steps: u32,
    /// Where Stage B's noise starts.
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
    let picture = picture::read(&args.file)?;
    let (width, height) = args.fitting.size(&picture);
    let usual = Request::new(&args.prompt);
    let request = Request { width, height, seed: args.seed, steps: (usual.steps.0, args.steps), ..usual };
    request.check()?;
    let series = Series { seed: request.seed, images: 1, output: None };
    let outputs = args.output.plan_pictures(&[series], [None; 2])?;
    let model = args.setup.open_model(quiet)?;
    outputs.spare(args.setup.reads(&model)?.into_iter().chain([args.file.clone()]))?;
    let opened = args.setup.open_device_of(None)?;
    // A picture of Stage A alone is none that a request makes.
    let init = (args.stage == Stage::C).then(|| args.fitting.record(&args.file));
    let record = Record { init, ..args.setup.record(&request, &model, &opened, None)? };
    let mut pipeline = Pipeline::new(model, opened.backend)?;
    let mut report = Report::new(begin, args.output.json, quiet, &record, pipeline.backend());
    let mut watch = Watch::new(quiet, args.output.json);
    watch.about(pipeline.model());
    let picture = args.fitting.fit.apply(&picture, width, height);
    let jobs = [(Job::new(request.clone(), 0), record)];
    let made: Option<Image> = match args.stage {
        Stage::A if outputs.missing(&jobs[0].0, &jobs[0].1)?.is_empty() => None,
        Stage::A => {
            let made = pipeline.autoencode(&picture, check_nodes)?;
            at_once(|| report.wrote(|| outputs.write_picture(0, &made, &jobs[0].1)))?;
            Some(made)
        }
        Stage::C => {
            let latents = pipeline.encode_picture(&picture, request.sizes().c, check_nodes)?;
            let inputs = Inputs { stage_c: Some(&latents), ..Inputs::default() };
            watch.pictures = Some(Vec::new());
            args.making.pictures(&mut pipeline, &jobs, inputs, &outputs, &mut watch, &mut report)?;
            watch.pictures.take().and_then(|mut all| all.pop())
        }
    };
    outputs.write_dump(&watch.dump)?;
    let decibels = made.map(|made| psnr(&picture, &made));
    if let Some(decibels) = decibels.filter(|_| !args.output.json) {
        let line = format!("PSNR {decibels:.2} dB");
        // The picture itself may go to standard output.
        if outputs.is_stdout() { note(&line) } else { say(&line)? }
    }
    // Equal pictures have an infinite one, which JSON cannot say.
    let decibels = decibels.filter(|decibels| decibels.is_finite());
    report.end("images", serde_json::json!({ "request": request, "psnr": decibels }))
}
