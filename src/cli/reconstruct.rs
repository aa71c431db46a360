//! `cascade-rt reconstruct`: a picture, encoded and decoded again.

use std::path::PathBuf;
use std::time::Instant;

use super::initial::{Fitting, size};
use super::interrupt::{after_a_step, at_once};
use super::output::Output;
use super::report::Report;
use super::say;
use super::setup::Setup;
use super::watch::Watch;
use crate::error::Result;
use crate::image::{Image, Origin, Record};
use crate::picture::{self, psnr};
use crate::pipeline::{Init, Inputs, Options, Pipeline};
use crate::request::{Request, parse_one_steps, parse_whole};

/// The stage whose latents a picture is encoded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    /// Stage A: a quarter of the picture's sides, by its own encoder.
    A,
    /// Stage C: a forty-second of the picture's sides, by the EfficientNet; Stages B and A decode.
    C,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Picture: PNG, JPEG or WebP.
    file: PathBuf,
    #[command(flatten)]
    setup: Setup,
    /// Whose latents the picture is encoded as.
    #[arg(long, value_enum, default_value_t = Stage::C)]
    stage: Stage,
    /// What the picture shows: Stage B may use it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// Width in pixels, a multiple of 8 from 64 up. Without it, the picture's, rounded down to such a one.
    #[arg(short = 'W', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true)]
    width: Option<u32>,
    /// Height in pixels, like the width.
    #[arg(short = 'H', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true)]
    height: Option<u32>,
    #[command(flatten)]
    fitting: Fitting,
    /// Denoising steps of Stage B.
    #[arg(long, value_name = "B", default_value_t = 10, value_parser = parse_one_steps, allow_hyphen_values = true)]
    steps: u32,
    /// Where Stage B's noise starts.
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<u64>, allow_negative_numbers = true)]
    seed: u64,
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
    let picture = picture::read(&args.file)?;
    let (width, height) = size(&picture, args.width, args.height);
    let usual = Request::new(&args.prompt);
    let request = Request { width, height, seed: args.seed, steps: (usual.steps.0, args.steps), ..usual };
    request.check()?;
    let outputs = args.output.plan_pictures(1, &[request.seed])?;
    let model = args.setup.open_model(args.quiet)?;
    outputs.spare(model.files().into_iter().chain([args.file.as_path()]))?;
    let picture = args.fitting.fit.apply(&picture, width, height);
    let mut pipeline = Pipeline::new(model, args.setup.open_device()?)?;
    let (name, device) = (args.setup.model.name()?, pipeline.backend().device().name.clone());
    let mut report = Report::new(begin, args.output.json, args.quiet, &name, &device);

    let mut watch = Watch::new(args.quiet, args.output.json);
    let mut made: Option<Image> = None;
    match args.stage {
        Stage::A => made = Some(pipeline.autoencode(&picture, args.check_nodes)?),
        Stage::C => {
            let latents = pipeline.encode_picture(&picture, request.sizes().c, args.check_nodes)?;
            let inputs = Inputs { init: Some(Init { latents: &latents, strength: 0.0 }), ..Inputs::default() };
            let keep = outputs.dump.is_some();
            let options = Options { inputs, keep, check_nodes: args.check_nodes, observer: Some(&mut watch) };
            report.times += after_a_step(|| {
                pipeline.run(&request, options, |batch| {
                    made = batch.images.into_iter().next();
                    Ok(())
                })
            })?;
        }
    }
    let made = made.expect("a request of one picture makes one");
    let file = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let record = Record { prior: Some(Origin::File(file)), ..Record::new(&request, &name, 0) };
    at_once(|| report.wrote(|| outputs.write(0, &made.to_png(&record)?)))?;
    outputs.write_dump(&watch.dump)?;
    let decibels = psnr(&picture, &made);
    if !args.output.json {
        say(&format!("PSNR {decibels:.2} dB"))?;
    }
    // Equal pictures have an infinite one, which JSON cannot say.
    let decibels = decibels.is_finite().then_some(decibels);
    report.end("images", serde_json::json!({ "request": request, "psnr": decibels }))
}
