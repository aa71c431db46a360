//! `cascade-rt generate`: pictures from prompts, or Stage C's latents alone.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::adapters::Chosen;
use super::again::{prior_request, record_of};
use super::control;
use super::given::{Given, StartLatents};
use super::grid::{self, Grid};
use super::hires;
use super::image_prompts;
use super::initial::{self, Fitted, Initial, fit_alike};
use super::interrupt::{after_a_step, at_once};
use super::jobs::{Job, jobs};
use super::make::Making;
use super::output::{Output, Series};
use super::preview;
use super::prompts::{self, Line};
use super::report::Report;
use super::seed::Seed;
use super::setup::{Sampling, Setup, Size};
use super::tensors::Tensors;
use super::watch::Watch;
use super::{FILES, PICTURE, note};
use crate::error::{Error, Result};
use crate::image::Record;
use crate::noise::NoiseKind;
use crate::pipeline::{Control, Inputs, Observer, Options, Pipeline, TextEmbeddings};
use crate::prompts::{Syntax, encode};
use crate::request::Request;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cascade-rt generate \"a fox\" -s random -c 4 -o foxes/
  cascade-rt generate --prompts prompts.jsonl -m stable-cascade -o pictures/ --resume
  cascade-rt generate --from foxes/cascade-7-2.png --steps 40
  echo \"a fox\" | cascade-rt generate -o - > fox.png

A line of a JSONL file is like {\"prompt\": \"a fox\", \"seed\": 7, \"steps\": [20, 10], \"output\": \"fox.png\"}, with any of
prompt, negative, width, height, seed, steps, guidance, count, noise, hires, hires_strength and output.")]
pub(super) struct Args {
    /// What the picture shows, may be empty; or - for what standard input holds, as where nothing is given and it is
    /// a pipe.
    #[arg(env = "CASCADE_PROMPT")]
    pub(super) prompt: Option<String>,
    #[command(flatten)]
    pub(super) setup: Setup,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    pub(super) size: Size,
    /// What guidance leads away from.
    #[arg(short, long, value_name = "TEXT", help_heading = PICTURE, env = "CASCADE_NEGATIVE")]
    negative: Option<String>,
    /// Where the noise starts: picture k of the run has seed N + k. `random` or -1 draws one, and prints it.
    /// [default: 0]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, help_heading = PICTURE, env = "CASCADE_SEED")]
    seed: Option<Seed>,
    /// Where noise comes from. torch and torch-bf16 repeat what diffusers CPU generators draw in f32 and bf16, one for
    /// each picture; torch-batch and torch-batch-bf16 what one for all pictures draws; philox is drawn on the device.
    /// [default: torch]
    #[arg(long, value_name = "KIND", help_heading = PICTURE, env = "CASCADE_NOISE")]
    noise: Option<NoiseKind>,
    /// What parentheses and brackets in prompts mean: plain text, or weights as in webui (A1111) or comfyui.
    /// [default: plain]
    ///
    /// `(word:1.3)` is 1.3 times as strong, `(word)` 1.1 times, in webui `[word]` 1/1.1 times, and BREAK begins a new
    /// chunk of 75 tokens. With webui and comfyui, prompts may be longer than the 75 tokens that the text encoder takes.
    #[arg(long, value_name = "SYNTAX", help_heading = PICTURE, env = "CASCADE_PROMPT_SYNTAX")]
    prompt_syntax: Option<Syntax>,
    /// File with one prompt a line, or - for standard input. Empty lines are skipped. Lines of JSON may have settings
    /// of their own.
    #[arg(long, value_name = "FILE|-", conflicts_with = "prompt", help_heading = FILES, env = "CASCADE_PROMPTS")]
    prompts: Option<PathBuf>,
    /// Make this picture again, which cascade-rt wrote. What other flags say is made differently.
    #[arg(long, value_name = "PICTURE", conflicts_with_all = ["prior_only", "prompts"], help_heading = FILES, env = "CASCADE_FROM")]
    from: Option<PathBuf>,
    /// Take encoded text from this safetensors file, which `encode` or diffusers wrote, instead of a prompt.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompts", "negative"], help_heading = FILES, env = "CASCADE_TEXT")]
    pub(super) text: Option<PathBuf>,
    /// Show something like this picture (PNG, JPEG, WebP), with or without a prompt. Several are mixed; a weight, 1 unless
    /// given, says how strongly. A .safetensors file that `encode --image` wrote takes a picture's place.
    #[arg(long, value_name = "FILE[:WEIGHT]", help_heading = PICTURE, env = "CASCADE_IMAGE")]
    pub(super) image: Vec<image_prompts::Named>,
    #[command(flatten)]
    hires: hires::Args,
    #[command(flatten)]
    pub(super) initial: initial::Args,
    /// Stop after Stage C, and write its latents and the text to the output, which ends in .safetensors, for
    /// `decode`.
    #[arg(long, conflicts_with_all = ["resume", "no_metadata"], help_heading = FILES, env = "CASCADE_PRIOR_ONLY")]
    prior_only: bool,
    #[command(flatten)]
    output: Output,
    /// Start from `stage_c` and `stage_b` (f32, NCHW) of this safetensors file instead of noise.
    #[arg(long, value_name = "FILE", help_heading = FILES, env = "CASCADE_LATENTS")]
    pub(super) latents: Option<PathBuf>,
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    grid: grid::Args,
    #[command(flatten)]
    preview: preview::Args,
    #[command(flatten)]
    pub(super) control: control::Args,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let from = args.from.as_deref().map(|path| record_of(path, args)).transpose()?;
    // Where nothing else is asked for, it is that very picture, and not one like it.
    let again = from.as_ref().filter(|_| args.prompt.is_none() && args.size.count.is_none());
    let text = args.text.as_deref().map(Given::open).transpose()?;
    let (shown, initial) = (image_prompts::read(&args.image)?, args.initial.read(from.as_ref())?);
    let controlled = args.control.read(initial.as_ref())?;
    let syntax = args.prompt_syntax.or(from.as_ref().and_then(|record| record.syntax.parse().ok())).unwrap_or_default();
    let (mut jobs, grid) = asked(args, from.as_ref(), again, text.as_ref(), initial.as_ref(), syntax)?;
    args.hires.check(&jobs, initial.as_ref().is_some_and(Initial::is_masked))?;
    initial.iter().try_for_each(|initial| jobs.iter().try_for_each(|job| initial.check(&job.request)))?;
    let tags = take_tags(args, &mut jobs)?;
    let adapters = args.setup.adapters.names(&tags);
    if let Some(record) = again.filter(|record| record.adapters != adapters) {
        return Err(Error::Request {
            what: "--lora".into(),
            expected: format!("what the picture was made with: {}", listed(&record.adapters)),
            found: listed(&adapters),
        });
    }
    if let Some(Seed::Random(seed)) = args.seed {
        note(&format!("seed: {seed}"));
    }
    let preview = args.preview.plan(args.output.replaces_previews())?;
    let outputs = match args.prior_only {
        true => args.output.plan_tensors(args.preview.file())?,
        false => {
            let series = |job: &'_ Job| (job.request.seed, job.images().len(), job.output.clone());
            let series: Vec<_> = jobs.iter().map(series).collect();
            let series = series.iter().map(|(seed, images, output)| Series {
                seed: *seed,
                images: *images,
                output: output.as_deref(),
            });
            args.output.plan_pictures(&series.collect::<Vec<_>>(), [args.grid.grid.as_deref(), args.preview.file()])?
        }
    };

    let model = args.setup.open_model_with(&tags, from.as_ref(), args.making.quiet)?;
    let given = [&args.prompts, &args.latents, &args.text, &args.from].into_iter().flatten().cloned();
    let given = given.chain([&args.initial.init, &args.initial.mask].into_iter().flatten().cloned());
    let given = given.chain(args.image.iter().map(|image| image.path.clone()));
    let given = given.chain(args.control.files().map(Path::to_owned));
    let given = given.chain(args.setup.adapters.files(&tags).map(Path::to_owned));
    outputs.spare(args.setup.reads(&model)?.into_iter().chain(given))?;
    if let Some(side) = model.native_size {
        jobs.iter_mut().for_each(|job| job.take_size(side));
    }
    let latents = match &args.latents {
        Some(path) => {
            let row = again.map(|record| record.latents.as_ref().map_or(record.image, |of| of.row));
            let job = single(&jobs, "--latents")?;
            let file = Given::open(path)?;
            let start = file.start_latents(&job.request, row, &model)?;
            (Some(file), row, start)
        }
        None => (None, None, StartLatents::default()),
    };
    let row_of_text = again.and_then(|record| record.text.as_ref()).map(|of| of.row);
    let states: Option<TextEmbeddings> = match &text {
        Some(file) => {
            let found = row_of_text.map_or_else(|| file.text(&model, true), |row| file.text_of_row(&model, row))?;
            Some(found.ok_or_else(|| file.lacks("tensors `prompt_embeds` and `prompt_embeds_pooled`"))?)
        }
        None => None,
    };
    let opened = args.setup.open_device_of(from.as_ref())?;
    let whole = |job: &Job| -> Result<Record> {
        Ok(Record {
            adapters: adapters.clone(),
            syntax: if syntax == Syntax::Plain { String::new() } else { syntax.to_string() },
            text: text.as_ref().map(|file| file.from(row_of_text.unwrap_or(0))),
            latents: latents.0.as_ref().map(|file| file.from(latents.1.unwrap_or(0))),
            images: shown.iter().map(image_prompts::Prompt::record).collect(),
            init: initial.as_ref().map(|initial| initial.record.clone()),
            controls: controlled.iter().map(control::Controlled::record).collect(),
            prior: again.and_then(|record| record.prior.clone()),
            ..args.setup.record(&job.request, &model, &opened, from.as_ref())?
        })
    };
    let jobs: Vec<(Job, Record)> =
        jobs.into_iter().map(|job| whole(&job).map(|record| (job, record))).collect::<Result<_>>()?;
    let mut pipeline = Pipeline::new(model, opened.backend)?;
    let mut report = Report::new(begin, args.output.json, args.making.quiet, &jobs[0].1, pipeline.backend());
    let mut watch = Watch::new(args.making.quiet, args.output.json);
    watch.about(pipeline.model());
    watch.preview = preview;
    let images = image_prompts::embed(&shown, &mut pipeline, args.making.check_nodes)?;
    let requests = jobs.iter().map(|(job, _)| &job.request);
    let check_nodes = args.making.check_nodes;
    let additions = control::additions(&controlled, requests, initial.as_ref(), &mut pipeline, check_nodes)?;
    let control: Vec<Control<'_>> = controlled.iter().zip(&additions).map(|(one, of)| one.with(of)).collect();
    let [start_c, start_b] = [latents.2[0].as_ref(), latents.2[1].as_ref()];
    let given = Inputs {
        text: states.as_ref(),
        image: images.as_ref(),
        control: &control,
        start_c,
        start_b,
        ..Inputs::default()
    };
    let begin_with = |request: &Request, pipeline: &mut Pipeline| {
        let fitted = |initial: &Initial| initial.fitted(request, pipeline, args.making.check_nodes);
        initial.as_ref().map(fitted).transpose()
    };
    if args.prior_only {
        let (job, whole) = single(&jobs, "--prior-only")?;
        let states = weighed(&mut pipeline, job, syntax, states.is_some(), &mut watch)?;
        let begun = begin_with(&job.request, &mut pipeline)?;
        let inputs = Inputs { text: states.as_ref().or(given.text), init: begun.as_ref().map(Fitted::init), ..given };
        let Making { batch, check_nodes, .. } = args.making;
        let (keep, preview) = (outputs.dump.is_some(), watch.preview.is_some());
        watch.expect(job.request.images(), 0);
        let observer: Option<&mut dyn Observer> = Some(&mut watch);
        let options = Options { inputs, batch, keep, preview, check_nodes, observer, images: None };
        let (prior, times) = after_a_step(|| pipeline.prior(&job.request, options))?;
        report.times += times;
        let mut tensors = Tensors::default();
        tensors.append_images("stage_c", prior.stage_c);
        tensors.append_text(&TextEmbeddings { states: None, ..prior.text }, job.request.prompts.len());
        at_once(|| report.wrote(|| outputs.write(0, &tensors.to_bytes(outputs.name(0), Some(whole))?)))?;
    } else {
        let stage_c = match again.and_then(prior_request) {
            Some((request, image)) => {
                let begun = begin_with(request, &mut pipeline)?;
                let inputs = Inputs { image: given.image, init: begun.as_ref().map(Fitted::init), ..Inputs::default() };
                let images = Some(image..image + 1);
                let options = Options { inputs, images, observer: Some(&mut watch), ..Options::default() };
                let (prior, times) = after_a_step(|| pipeline.prior(request, options))?;
                report.times += times;
                Some(prior.stage_c.repeated(jobs[0].0.request.images()))
            }
            None => None,
        };
        watch.pictures = args.grid.grid.is_some().then(Vec::new);
        // Text that is encoded apart is that of one job, and the latents of a picture are those of one size.
        let alike = |a: &Job, b: &Job| initial.is_none() || fit_alike(&a.request, &b.request);
        for jobs in jobs.chunk_by(|a, b| syntax == Syntax::Plain && alike(&a.0, &b.0)) {
            let states = weighed(&mut pipeline, &jobs[0].0, syntax, states.is_some(), &mut watch)?;
            let begun = match stage_c {
                Some(_) => None,
                None => begin_with(&jobs[0].0.request, &mut pipeline)?,
            };
            let text = states.as_ref().or(given.text);
            let inputs = Inputs { text, stage_c: stage_c.as_ref(), init: begun.as_ref().map(Fitted::init), ..given };
            args.making.pictures(&mut pipeline, jobs, inputs, &outputs, &mut watch, &mut report)?;
        }
        if let Some(pictures) = &watch.pictures {
            at_once(|| report.wrote(|| outputs.write_grid(&grid.draw(pictures))))?;
        }
    }
    outputs.write_dump(&watch.dump)?;
    let requests: Vec<&Request> = jobs.iter().map(|(job, _)| &job.request).collect();
    let requests = match requests[..] {
        [request] => serde_json::json!({ "request": request }),
        _ => serde_json::json!({ "requests": requests }),
    };
    report.end(if args.prior_only { "latents" } else { "images" }, requests)
}

/// The job's text, encoded with its weights, where a syntax has them and no text is given.
fn weighed(
    pipeline: &mut Pipeline,
    job: &Job,
    syntax: Syntax,
    is_given: bool,
    watch: &mut Watch,
) -> Result<Option<TextEmbeddings>> {
    if is_given || syntax == Syntax::Plain {
        return Ok(None);
    }
    encode(pipeline, &job.request.prompts, &job.request.negative, syntax, watch).map(Some)
}

/// Takes the tags of adapters out of all prompts of a run.
fn take_tags(args: &Args, jobs: &mut [Job]) -> Result<Vec<Chosen>> {
    let mut prompts: Vec<String> = jobs.iter().flat_map(|job| job.request.prompts.clone()).collect();
    let tags = args.setup.adapters.take_tags(&mut prompts)?;
    let plain = prompts.into_iter();
    jobs.iter_mut().flat_map(|job| &mut job.request.prompts).zip(plain).for_each(|(prompt, plain)| *prompt = plain);
    Ok(tags)
}

fn listed(adapters: &[String]) -> String {
    if adapters.is_empty() { "none".into() } else { adapters.join(", ") }
}

/// What is to be made, checked, where sizes that nobody gave are still the usual ones.
fn asked(
    args: &Args,
    from: Option<&Record>,
    again: Option<&Record>,
    text: Option<&Given>,
    initial: Option<&Initial>,
    syntax: Syntax,
) -> Result<(Vec<Job>, Grid)> {
    let extended = initial.and_then(Initial::extended);
    let width = args.size.width.or(extended.map(|(width, _)| width));
    let height = args.size.height.or(extended.map(|(_, height)| height));
    let usual = from.map_or_else(Request::default, |record| record.request.clone());
    let from_prompts = usual.prompts.clone();
    let mut base = args.hires.apply(args.sampling.apply(Request {
        negative: args.negative.clone().unwrap_or(usual.negative),
        width: width.unwrap_or(usual.width),
        height: height.unwrap_or(usual.height),
        seed: args.seed.map_or(usual.seed, Seed::value),
        count: args.size.count.unwrap_or(usual.count),
        noise: args.noise.unwrap_or(usual.noise),
        prompts: Vec::new(),
        ..usual
    }));
    // Before anything is listed of which there may be too much.
    Request { prompts: vec![String::new()], ..base.clone() }.check()?;
    let plain = |prompts: &[String]| prompts.iter().map(|prompt| Line::of(prompt)).collect();
    let lines: Vec<Line> = match (&args.prompt, &args.prompts, text) {
        (Some(prompt), ..) => vec![Line::of(&prompts::one(prompt)?)],
        (None, Some(path), _) => prompts::read(path)?,
        (None, None, _) if from.is_some() => plain(&from_prompts),
        (None, None, Some(file)) => {
            let (prompts, negative) = file.prompts();
            base.negative = negative;
            plain(&prompts)
        }
        // An image prompt may stand alone, and so may a picture that is changed.
        (None, None, None) if !args.image.is_empty() || args.initial.init.is_some() => plain(&[String::new()]),
        (None, None, None) if is_pipe() => vec![Line::of(&prompts::one("-")?)],
        (None, None, None) => {
            return Err(Error::Request {
                what: "PROMPT".into(),
                expected:
                    "what the picture shows, - to read it from standard input, or --prompts, --text, --image, --init or --from"
                        .into(),
                found: "nothing".into(),
            });
        }
    };
    let sized = [width.is_some() || from.is_some(), height.is_some() || from.is_some()];
    let (lines, grid) = args.grid.expand(lines, &base)?;
    // All texts of a job get as many chunks as the longest, so a picture that is to be as if alone has its own.
    let together = syntax == Syntax::Plain || base.noise.is_of_batch();
    let mut jobs = jobs(&lines, &base, sized, together)?;
    if let (Some(record), [job]) = (again, &mut jobs[..]) {
        job.only = (record.image < job.request.images()).then_some(record.image);
    }
    Ok((jobs, grid))
}

/// Whether somebody writes to standard input, as in `echo a fox | cascade-rt generate`.
fn is_pipe() -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        std::fs::metadata("/dev/stdin").is_ok_and(|there| there.is_file() || there.file_type().is_fifo())
    }
    #[cfg(not(unix))]
    {
        !std::io::IsTerminal::is_terminal(&std::io::stdin())
    }
}

/// The only job of a run that takes or makes tensors of all its images.
fn single<'a, T>(jobs: &'a [T], flag: &str) -> Result<&'a T> {
    match jobs {
        [job] => Ok(job),
        _ => Err(Error::Request {
            what: flag.into(),
            expected: "prompts with the same settings".into(),
            found: format!("{} different ones", jobs.len()),
        }),
    }
}
