//! `cascade-rt serve`: pictures over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::adapters::Chosen;
use super::grid::side_by_side;
use super::image_prompts::{Prompt, embed};
use super::initial::{Fitted, Initial};
use super::progress::Progress;
use super::prompts::Line;
use super::setup::Setup;
use super::{DEVICE, interrupt, note, say};
use crate::error::{Error, Result};
use crate::image::{Format, Record};
use crate::pipeline::{Inputs, Observer, Options, Outline, Pipeline, StageName, Step, Times};
use crate::prompts::{Syntax, encode};
use crate::request::Request;
use crate::serve::{self, About, Job, Keys, Maker, Picture, Settings};

const SERVER: &str = "Server";
/// The least time from one preview to the next.
const PREVIEWS: Duration = Duration::from_millis(150);
/// How often a device is waited for, so that what is told is done and not only asked for.
const WAITS: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  cascade-rt serve
  cascade-rt serve -m stable-cascade --host 0.0.0.0 --api-key-file keys.txt --allowed-host pictures.example
  curl http://127.0.0.1:7860/v1/images/generations -H 'Content-Type: application/json' -d '{\"prompt\": \"a fox\"}'

Programs that speak OpenAI's API take http://127.0.0.1:7860/v1 as its address; those that speak the API of Stable Diffusion
WebUI take http://127.0.0.1:7860. GET /openapi.json describes all of it.")]
pub(super) struct Args {
    #[command(flatten)]
    setup: Setup,
    /// Address to listen at. Others than this machine's own need a key, or --insecure.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", help_heading = SERVER, env = "CASCADE_HOST")]
    host: IpAddr,
    /// Port to listen at; 0 takes one that is free. One line of JSON on standard output says which.
    #[arg(long, value_name = "N", default_value_t = 7860, help_heading = SERVER, env = "CASCADE_PORT")]
    port: u16,
    /// Key that clients need, as `Authorization: Bearer KEY`; may be given several times. Others can see it in the list of
    /// processes: --api-key-file is safer.
    #[arg(long, value_name = "KEY", help_heading = SERVER, env = "CASCADE_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File with one key a line.
    #[arg(long, value_name = "FILE", help_heading = SERVER, env = "CASCADE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Serve others than this machine without a key.
    #[arg(long, help_heading = SERVER, env = "CASCADE_INSECURE")]
    insecure: bool,
    /// Name that clients may call the server by, besides its addresses and `localhost`.
    #[arg(long, value_name = "NAME", help_heading = SERVER, env = "CASCADE_ALLOWED_HOST", value_delimiter = ',')]
    allowed_host: Vec<String>,
    /// Origin of a page of another site that may use the server, like `https://pictures.example`.
    #[arg(long, value_name = "ORIGIN", help_heading = SERVER, env = "CASCADE_CORS_ORIGIN", value_delimiter = ',')]
    cors_origin: Vec<String>,
    /// Most orders that wait; further ones are refused for the time being.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..), help_heading = SERVER, env = "CASCADE_MAX_QUEUE")]
    max_queue: u16,
    /// Most pixels of a picture.
    #[arg(long, value_name = "N", default_value_t = 4 << 20, value_parser = clap::value_parser!(u64).range(4096..=1 << 28), help_heading = SERVER, env = "CASCADE_MAX_PIXELS")]
    max_pixels: u64,
    /// Longest time that an order may take, seconds.
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = SERVER, env = "CASCADE_TIMEOUT")]
    timeout: u64,
    /// How long after SIGTERM or Ctrl-C accepted orders may go on, seconds.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400), help_heading = SERVER, env = "CASCADE_DRAIN_TIMEOUT")]
    drain_timeout: u64,
    /// Print the prompt of every order.
    #[arg(long, help_heading = SERVER, env = "CASCADE_LOG_PROMPTS")]
    log_prompts: bool,
    /// End as soon as standard input does, which it does when the program that started this one ends.
    #[arg(long, help_heading = SERVER)]
    exit_with_parent: bool,
    /// Print nothing but errors and the address.
    #[arg(short, long, help_heading = DEVICE, env = "CASCADE_QUIET")]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let settings = settings(args)?;
    if args.exit_with_parent {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let quiet = args.quiet;
    let listening = |address: SocketAddr, stop: serve::Stop| {
        let url = format!("http://{address}");
        if !quiet {
            note(&format!("{url} is where the page and the API are; Ctrl-C stops"));
        }
        interrupt::instead(move || {
            if !quiet {
                note("\nstopping when accepted orders are done; interrupt again to stop at once");
            }
            stop.stop();
        });
        // The other end lives until the server ends.
        let _ = sender.send(url);
    };
    let ready = move |about: &About| {
        let url = receiver.recv().unwrap_or_default();
        let line = json!({"ready": true, "url": url, "model": about.model, "device": about.device});
        let _ = say(&line.to_string());
    };
    let args = args.clone();
    serve::run(settings, read, listening, move || Studio::open(args), ready)
}

fn settings(args: &Args) -> Result<Settings> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let disk = |source| Error::Disk { path: path.clone(), action: "read", source };
        keys.extend(std::fs::read_to_string(path).map_err(disk)?.lines().map(|line| line.trim().to_owned()));
    }
    let settings = Settings {
        address: SocketAddr::new(args.host, args.port),
        keys: Keys::new(keys),
        hosts: args.allowed_host.clone(),
        origins: args.cors_origin.clone(),
        queue: args.max_queue.into(),
        pixels: args.max_pixels,
        timeout: Duration::from_secs(args.timeout),
        drain: Duration::from_secs(args.drain_timeout),
    };
    let wanted_a_key = !args.api_key.is_empty() || args.api_key_file.is_some();
    let refused = |what: &str, expected: &str, found: String| {
        Err(Error::Request { what: what.into(), expected: expected.into(), found })
    };
    match settings.keys.is_empty() {
        true if wanted_a_key => refused("--api-key", "a key", "none that is not empty".into()),
        true if !settings.is_local() && !args.insecure => refused(
            "--host",
            "an address of this machine alone, --api-key, --api-key-file or --insecure",
            args.host.to_string(),
        ),
        _ => Ok(settings),
    }
}

/// The request that a line of `--prompts` with these fields would be.
fn read(fields: Map<String, Value>) -> Result<Request> {
    let request = Line::of_fields("order", fields).apply(&Request::default())?.request;
    request.check().map(|()| request)
}

/// A model on a device, and how its pictures are made.
struct Studio {
    args: Args,
    pipeline: Pipeline,
    /// What the record of every picture says of model and device.
    record: Record,
    /// The adapters that change the model now, besides those of the flags.
    adapted: Vec<Chosen>,
}

impl Studio {
    fn open(args: Args) -> Result<Self> {
        let model = args.setup.open_model(args.quiet)?;
        let opened = args.setup.open_device_of(None)?;
        let record = args.setup.record(&Request::default(), &model, &opened, None)?;
        let pipeline = Pipeline::new(model, opened.backend)?;
        Ok(Self { args, pipeline, record, adapted: Vec::new() })
    }

    /// Changes the model as an order wants it.
    fn adapt(&mut self, wanted: Vec<Chosen>) -> Result<()> {
        if wanted != self.adapted {
            let Self { args, pipeline, .. } = self;
            args.setup.adapters.apply_by(&wanted, args.quiet, |given| pipeline.adapt(given))?;
            self.adapted = wanted;
        }
        Ok(())
    }
}

impl Maker for Studio {
    fn about(&self) -> About {
        let model = self.pipeline.model();
        About {
            model: self.record.model.clone(),
            device: self.pipeline.backend().device().name.clone(),
            side: model.native_size.unwrap_or(Request::default().width),
            adapters: self.args.setup.adapters.in_folder(),
            begins_with_pictures: model.effnet().is_ok(),
            takes_pictures: model.stage_c.1.clip_image_in_channels.is_some() && model.vision().is_ok(),
        }
    }

    fn make(&mut self, job: &Job) -> Result<Times> {
        let begin = Instant::now();
        let order = &job.order;
        let mut request = order.request.clone();
        let flags = &self.args.setup.adapters;
        let mut chosen = flags.take_tags(&mut request.prompts)?;
        for (name, strength) in &order.adapters {
            chosen.push(flags.named(name, *strength)?);
        }
        let adapters = flags.names(&chosen);
        self.adapt(chosen)?;
        let shown: Vec<Prompt> =
            order.shown.iter().map(|one| Prompt::of(one.picture.clone(), one.weight, one.name.clone())).collect();
        let initial = order.initial.clone();
        let initial = initial.map(|one| Initial::of(one.picture, one.mask, one.fit, one.record));
        let whole = Record {
            init: initial.as_ref().map(|initial| initial.record.clone()),
            request: request.clone(),
            adapters,
            syntax: if order.syntax == Syntax::Plain { String::new() } else { order.syntax.to_string() },
            images: shown.iter().map(Prompt::record).collect(),
            ..self.record.clone()
        };
        let preview = self.pipeline.model().previewer().is_ok();
        let mut teller = Teller {
            job,
            progress: Progress::new(request.images()),
            waited: Instant::now(),
            stage: None,
            steps: 0,
            partials: 0,
            shown: None,
        };
        let images = embed(&shown, &mut self.pipeline, false)?;
        let text = match order.syntax {
            Syntax::Plain => None,
            syntax => Some(encode(&mut self.pipeline, &request.prompts, &request.negative, syntax, &mut teller)?),
        };
        let begun = initial.map(|initial| initial.fitted(&request, &mut self.pipeline, false)).transpose()?;
        let init = begun.as_ref().map(Fitted::init);
        let inputs = Inputs { text: text.as_ref(), image: images.as_ref(), init, ..Inputs::default() };
        let options = Options { inputs, preview, observer: Some(&mut teller), ..Options::default() };
        let times = self.pipeline.run(&request, options, |batch| {
            for (image, i) in batch.images.iter().zip(batch.first..) {
                let bytes = image.to_bytes(order.format, Some(&whole.of_image(i)))?;
                job.picture(Picture::new(bytes, order.format, request.seed_of(i)));
            }
            Ok(())
        })?;
        if !self.args.quiet {
            let prompt = if self.args.log_prompts { format!(": {}", request.prompt_of(0)) } else { String::new() };
            let size = format!("{}x{}", request.width, request.height);
            note(&format!("{} of {size} in {:.2} s{prompt}", request.images(), begin.elapsed().as_secs_f64()));
        }
        Ok(times)
    }
}

/// Tells a job how far it has come, and stops it when it is to.
struct Teller<'a> {
    job: &'a Job,
    progress: Progress,
    waited: Instant,
    stage: Option<StageName>,
    steps: usize,
    /// Unfinished pictures that were given, and when somebody was last shown one.
    partials: usize,
    shown: Option<Instant>,
}

impl Teller<'_> {
    /// Sends previews: of all pictures of the batch to clients that follow the job, at most every so often; and of the first
    /// picture where the request asked for partial pictures, which come after equal numbers of steps.
    fn show(&mut self, step: &mut Step<'_>) -> Result<()> {
        let wanted = self.job.order.partials;
        let is_partial = self.partials < wanted && (step.index + 1) * (wanted + 1) >= (self.partials + 1) * step.steps;
        let is_watched = self.job.is_watched() && self.shown.is_none_or(|shown| shown.elapsed() >= PREVIEWS);
        if step.stage != StageName::StageC || !(is_partial || is_watched) {
            return Ok(());
        }
        let Some(pictures) = step.preview()? else { return Ok(()) };
        if is_watched {
            self.shown = Some(Instant::now());
            let file = side_by_side(&pictures).to_bytes(Format::Png, None)?;
            self.job.preview(Picture::new(file, Format::Png, 0));
        }
        if let Some(first) = pictures.first().filter(|_| is_partial) {
            self.partials += 1;
            let format = self.job.order.format;
            self.job.partial(Picture::new(first.to_bytes(format, None)?, format, 0));
        }
        Ok(())
    }

    fn tell(&self, step: usize) {
        self.job.progress(serve::Progress {
            fraction: self.progress.fraction(),
            left: self.progress.left().map(|left| left.as_secs_f64()),
            stage: self.stage.map_or(String::new(), |stage| stage.to_string()),
            step,
            steps: self.steps,
        });
    }
}

impl Observer for Teller<'_> {
    fn truncated(&mut self, _: &str, cut: &str) {
        self.job.warn(format!("the prompt is too long; this was cut off: {cut}"));
    }

    fn batch(&mut self, outline: &Outline) {
        self.progress.batch(outline);
    }

    fn begin(&mut self, stage: StageName, steps: usize) {
        self.progress.begin(stage);
        (self.stage, self.steps) = (Some(stage), steps);
        self.tell(0);
    }

    fn step(&mut self, step: &mut Step<'_>) -> ControlFlow<()> {
        if step.index + 1 == step.steps || self.waited.elapsed() >= WAITS {
            let _ = step.latents();
            self.waited = Instant::now();
            self.progress.step(step.index + 1, self.waited);
        }
        // Whether a device failed, the run itself will find out.
        let _ = self.show(step);
        self.tell(step.index + 1);
        if self.job.is_to_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
