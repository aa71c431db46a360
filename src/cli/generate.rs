//! `cascade-rt generate`.

use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::latents::{Dump, read_latents};
use super::output::Output;
use super::setup::{Setup, Size};
use super::{note, say};
use crate::backend::Residency;
use crate::error::{Error, Result};
use crate::image::Record;
use crate::noise::NoiseKind;
use crate::pipeline::{Footprint, HostTensor, Inputs, Observer, Options, Pipeline, StageName, Step, Times};
use crate::request::{Request, parse_whole};

/// Longest file of prompts, in bytes.
const PROMPTS_LIMIT: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the picture shows. May be empty.
    #[arg(required_unless_present = "prompts", env = "CASCADE_PROMPT")]
    prompt: Option<String>,
    #[command(flatten)]
    setup: Setup,
    #[command(flatten)]
    size: Size,
    /// What guidance leads away from.
    #[arg(short, long, value_name = "TEXT", default_value = "", env = "CASCADE_NEGATIVE")]
    negative: String,
    /// Where the noise starts; the same seed makes the same picture.
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<u64>, allow_negative_numbers = true, env = "CASCADE_SEED")]
    seed: u64,
    /// Where noise comes from: torch and torch-bf16 repeat what a diffusers CPU
    /// generator draws in f32 and bf16; philox gives every picture its own stream.
    #[arg(long, value_name = "KIND", default_value = "torch", env = "CASCADE_NOISE")]
    noise: NoiseKind,
    /// File with one prompt a line; empty lines are skipped.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", env = "CASCADE_PROMPTS")]
    prompts: Option<PathBuf>,
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
    let usual = Request::default();
    let mut request = Request {
        prompts: prompts(args)?,
        negative: args.negative.clone(),
        width: args.size.width.unwrap_or(usual.width),
        height: args.size.height.unwrap_or(usual.height),
        seed: args.seed,
        steps: args.setup.steps,
        guidance: args.setup.guidance,
        count: args.size.count,
        noise: args.noise,
    };
    request.check()?;
    let outputs = args.output.plan(request.images(), request.seed)?;

    let model = args.setup.open_model(args.quiet)?;
    let given = [&args.prompts, &args.latents].into_iter().flatten().map(PathBuf::as_path);
    outputs.spare(model.files().into_iter().chain(given))?;
    if let Some(side) = model.native_size {
        (request.width, request.height) = (args.size.width.unwrap_or(side), args.size.height.unwrap_or(side));
    }
    let latents = match &args.latents {
        Some(path) => read_latents(path, &request, &model)?,
        None => [None, None],
    };
    let mut pipeline = Pipeline::new(model, args.setup.open_device()?)?;
    let device = pipeline.backend().device().name.clone();
    let load = begin.elapsed();

    let mut watch = Watch { bar: Bar::new(args.quiet || args.output.json), quiet: args.quiet, dump: Dump::default() };
    let name = args.setup.model.name()?;
    let options = Options {
        inputs: Inputs { start_c: latents[0].as_ref(), start_b: latents[1].as_ref(), ..Inputs::default() },
        keep: outputs.dump.is_some(),
        check_nodes: args.check_nodes,
        observer: Some(&mut watch),
    };
    let mut paths = Vec::new();
    let mut encode = Duration::ZERO;
    let times = pipeline.run(&request, options, |batch| {
        let start = Instant::now();
        for (i, image) in batch.images.iter().enumerate() {
            let index = batch.first + i;
            let path = outputs.write(image, &Record::new(&request, &name, index), index)?;
            if !args.output.json {
                path.iter().try_for_each(|path| say(&path.display().to_string()))?;
            }
            paths.extend(path.map(|path| path.display().to_string()));
        }
        encode += start.elapsed();
        Ok(())
    })?;
    if let Some(path) = &outputs.dump {
        outputs.write_dump(path, &watch.dump.to_bytes(path)?)?;
    }
    if args.output.json {
        let seconds = seconds(load, &times, encode);
        say(&serde_json::json!({ "images": paths, "request": request, "model": name, "device": device, "seconds": seconds }).to_string())?;
    } else if !args.quiet {
        let total = begin.elapsed().as_secs_f64();
        note(&format!(
            "{total:.2} s on {device}: load {:.2}, text {:.2}, Stage C {:.2}, Stage B {:.2}, Stage A {:.2}",
            (load + times.plan).as_secs_f64(),
            times.text.as_secs_f64(),
            times.stage_c.as_secs_f64(),
            times.stage_b.as_secs_f64(),
            times.stage_a.as_secs_f64(),
        ));
    }
    Ok(())
}

fn seconds(load: Duration, times: &Times, encode: Duration) -> serde_json::Value {
    serde_json::json!({
        "load": load.as_secs_f64(),
        "plan": times.plan.as_secs_f64(),
        "text": times.text.as_secs_f64(),
        "stage_c": times.stage_c.as_secs_f64(),
        "stage_b": times.stage_b.as_secs_f64(),
        "stage_a": times.stage_a.as_secs_f64(),
        "encode": encode.as_secs_f64(),
    })
}

fn prompts(args: &Args) -> Result<Vec<String>> {
    let Some(path) = &args.prompts else { return Ok(args.prompt.iter().cloned().collect()) };
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(PROMPTS_LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::Disk { path: path.clone(), action: "read", source })?;
    let wrong = |found: String| Error::Request {
        what: format!("--prompts {}", path.display()),
        expected: "UTF-8 text with one prompt a line, at most 64 MiB".into(),
        found,
    };
    if bytes.len() as u64 > PROMPTS_LIMIT {
        return Err(wrong("more".into()));
    }
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.utf8_error().to_string()))?;
    let lines = text.trim_start_matches('\u{feff}').lines();
    let prompts: Vec<String> = lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if prompts.is_empty() { Err(wrong("no prompt".into())) } else { Ok(prompts) }
}

/// At most some 200 characters of a text.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The memory that a plan takes, in words.
fn memory(plan: &Footprint) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let weights = match plan.residency {
        Residency::Mapped => "read from the files",
        Residency::All => "which all stay on the device",
        Residency::Turns => "of which stages take turns on the device",
    };
    let free = if plan.free == u64::MAX { String::new() } else { format!("; {} MiB are free", mib(plan.free)) };
    let (images, activations) = (plan.images, mib(plan.activations));
    format!("memory: {activations} MiB for batches of {images}, {} MiB of weights {weights}{free}", mib(plan.weights))
}

/// Shows how far a run has come, and collects what `--dump` asks for.
struct Watch {
    bar: Bar,
    quiet: bool,
    dump: Dump,
}

impl Observer for Watch {
    fn planned(&mut self, plan: &Footprint) {
        if !self.bar.quiet {
            note(&memory(plan));
        }
    }

    fn truncated(&mut self, _: &str, cut: &str) {
        if !self.quiet {
            note(&format!("warning: the prompt is too long, cut off: \"{}\"", shorten(cut)));
        }
    }

    fn begin(&mut self, stage: StageName, steps: usize) {
        self.bar.begin(stage, steps);
    }

    fn step(&mut self, _: &mut Step<'_>) -> ControlFlow<()> {
        self.bar.step();
        ControlFlow::Continue(())
    }

    fn tensor(&mut self, name: &'static str, tensor: HostTensor) {
        self.dump.append(name, tensor);
    }
}

/// A progress bar per stage, where standard error is a terminal.
struct Bar {
    bar: Option<ProgressBar>,
    shown: bool,
    quiet: bool,
}

impl Bar {
    fn new(quiet: bool) -> Self {
        Self { bar: None, shown: !quiet && std::io::stderr().is_terminal(), quiet }
    }

    fn begin(&mut self, stage: StageName, steps: usize) {
        if !self.shown {
            return;
        }
        let bar = ProgressBar::new(steps as u64).with_prefix(stage.to_string());
        let style = ProgressStyle::with_template("{prefix:8} {bar:30} {pos}/{len} [{elapsed}, {eta} left]");
        bar.set_style(style.expect("the template is well-formed"));
        bar.tick();
        self.bar = Some(bar);
    }

    fn step(&mut self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            if bar.length() == Some(bar.position()) {
                bar.finish();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_words() {
        let (activations, weights, residency) = (5 << 20, (9 << 20) + 1, Residency::Mapped);
        let plan = Footprint { images: 2, activations, weights, free: u64::MAX, residency };
        assert_eq!(memory(&plan), "memory: 5 MiB for batches of 2, 10 MiB of weights read from the files");
        let turns = memory(&Footprint { free: 12 << 20, residency: Residency::Turns, ..plan });
        assert!(
            turns.ends_with("10 MiB of weights of which stages take turns on the device; 12 MiB are free"),
            "{turns}"
        );
    }
}
