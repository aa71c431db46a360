//! The command line: turns arguments into requests, and results into files.

mod adapters;
mod bench;
mod decode;
mod encode;
mod generate;
mod given;
mod image_prompts;
mod info;
mod initial;
mod inspect;
mod interrupt;
mod kernels;
mod method;
mod output;
mod probe;
mod profile;
mod prompts;
mod reconstruct;
mod report;
mod setup;
mod tensors;
mod watch;
mod words;

use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Parser, Subcommand};

use crate::demo;
use crate::error::{Error, Result};
use crate::files::Location;
use crate::synth::Preset;
use crate::weights::paths::{ModelPaths, Overrides};

/// Stable Cascade, from prompt to picture, on hand-written kernels.
///
/// Results go to standard output, everything else to standard error. Every flag
/// of `generate` can also be set by an environment variable, like CASCADE_MODEL
/// for --model.
///
/// Exit codes: 0 done, 2 usage, 3 model missing or bad, 4 does not fit, 5 no
/// usable device, 7 disk, 130 interrupted, 1 anything else.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make pictures from prompts.
    Generate(Box<generate::Args>),
    /// Make pictures from Stage C's latents, which `generate --prior-only` or `encode` wrote.
    Decode(Box<decode::Args>),
    /// Encode prompts and pictures, for `generate --text` and `--image` or for another program.
    Encode(Box<encode::Args>),
    /// Encode a picture and decode it again: what the model keeps of it.
    Reconstruct(Box<reconstruct::Args>),
    /// Show what a model folder, a safetensors file or a generated PNG contains.
    Inspect(inspect::Args),
    /// List devices, their capabilities and memory, and which one --device auto takes.
    Devices(info::Args),
    /// List which kernel runs each op on each device, and why. With --bench, time them.
    Kernels(Box<kernels::Args>),
    /// Time whole pictures: median and spread of every stage, and memory.
    Bench(Box<bench::Args>),
    /// Time every node of one run: time, share, FLOP/s, GB/s, and the fraction of what the device allows.
    Profile(Box<profile::Args>),
    /// Write a model with the real architecture and random weights, to measure speed and memory.
    SynthModel(SynthArgs),
    /// Print what graphics drivers offer, for the program itself.
    #[command(hide = true, name = probe::COMMAND)]
    Probe,
}

#[derive(Debug, clap::Args)]
struct SynthArgs {
    /// Size: mid (0.4 GB), lite (5 GB), large (12 GB).
    #[arg(value_name = "PRESET")]
    preset: Preset,
    /// Folder to make. It must not exist yet.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Where a model's parts are.
#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// Model folder, with decoder/ and vqgan/ or the original single files.
    ///
    /// `demo`, where no folder has that name, is the small model built into this
    /// program. It is also what runs if neither a folder nor a part is given.
    #[arg(short, long, value_name = "PATH", value_parser = PathBufValueParser::new().map(locate), env = "CASCADE_MODEL")]
    model: Option<Location>,
    /// Folder with prior/, if it is neither in the model folder nor beside it.
    #[arg(long, value_name = "PATH", env = "CASCADE_PRIOR")]
    prior: Option<Location>,
    /// Stage A weights, instead of the folder's.
    #[arg(long, value_name = "FILE", env = "CASCADE_STAGE_A")]
    stage_a: Option<Location>,
    /// Stage B weights, instead of the folder's.
    #[arg(long, value_name = "FILE", env = "CASCADE_STAGE_B")]
    stage_b: Option<Location>,
    /// Stage C weights, instead of the folder's.
    #[arg(long, value_name = "FILE", env = "CASCADE_STAGE_C")]
    stage_c: Option<Location>,
    /// Text encoder weights, instead of the folder's.
    #[arg(long, value_name = "FILE", env = "CASCADE_TEXT_ENCODER")]
    text_encoder: Option<Location>,
    /// Tokenizer file or folder, instead of the folder's.
    #[arg(long, value_name = "FILE", env = "CASCADE_TOKENIZER")]
    tokenizer: Option<Location>,
    /// Image encoder weights, for --image, instead of the folder's.
    #[arg(long, value_name = "FILE", env = "CASCADE_IMAGE_ENCODER")]
    image_encoder: Option<Location>,
    /// EfficientNet encoder weights, for --init, `reconstruct` and `encode`, instead of the folder's.
    #[arg(long, value_name = "FILE", env = "CASCADE_EFFNET_ENCODER")]
    effnet_encoder: Option<Location>,
}

impl ModelArgs {
    /// Whether a model folder or any part of a model was given.
    fn is_given(&self) -> bool {
        self.model.is_some() || self.prior.is_some() || self.parts() != Overrides::default()
    }

    /// The model folder that was given, or the built-in model if nothing was given.
    fn folder(&self) -> Result<Option<Location>> {
        if self.is_given() {
            return Ok(self.model.clone());
        }
        let built_in = demo::MODEL.ok_or_else(|| Error::Request {
            what: "--model".into(),
            expected: "a model folder, because this program was built without the demo model".into(),
            found: "none".into(),
        });
        Ok(Some(built_in?.into()))
    }

    fn parts(&self) -> Overrides {
        Overrides {
            stage_a: self.stage_a.clone(),
            stage_b: self.stage_b.clone(),
            stage_c: self.stage_c.clone(),
            text_encoder: self.text_encoder.clone(),
            tokenizer: self.tokenizer.clone(),
            image_encoder: self.image_encoder.clone(),
            effnet_encoder: self.effnet_encoder.clone(),
        }
    }

    fn find(&self) -> Result<ModelPaths> {
        ModelPaths::find(self.folder()?.as_ref(), self.prior.as_ref(), &self.parts())
    }

    /// The model's name, for records: its folder's, or that of Stage C's file.
    fn name(&self) -> Result<String> {
        let location = self.folder()?.or_else(|| self.stage_c.clone());
        let path = location.map(|l| l.path().canonicalize().unwrap_or_else(|_| l.path().to_owned()));
        Ok(path.and_then(|p| Some(p.file_stem()?.to_string_lossy().into_owned())).unwrap_or_default())
    }
}

/// The location that a path names: the path, or the built-in model if it has this name and nothing is there.
fn locate(path: PathBuf) -> Location {
    let built_in = demo::MODEL.filter(|model| path.as_os_str() == model.name && !path.exists());
    built_in.map_or_else(|| path.into(), Location::from)
}

/// Parses the command line and does what it says.
///
/// # Errors
/// Whatever goes wrong. Usage errors that the parser finds end the process with
/// code 2 at once.
pub fn run() -> Result<()> {
    silence_wayland();
    let cli = Cli::parse();
    execute(&cli.command).map_err(words::for_the_command_line)
}

/// Vulkan's loader may ask Wayland which GPU shows the desktop, and where there is none, that library complains to standard
/// error of a variable that is not set.
fn silence_wayland() {
    const NAME: &str = "XDG_RUNTIME_DIR";
    if std::env::var_os(NAME).is_none() {
        #[expect(unsafe_code, reason = "other threads could be reading the environment")]
        // SAFETY: the program has begun with this, and has no other thread yet.
        unsafe {
            std::env::set_var(NAME, "/nonexistent");
        }
    }
}

fn execute(command: &Command) -> Result<()> {
    // Without it, a file that shrinks while it is mapped ends the program with a bare SIGBUS.
    crate::weights::install_sigbus_handler().map_err(|e| no_handler(&e.to_string()))?;
    interrupt::install()?;
    match command {
        Command::Generate(args) => generate::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Reconstruct(args) => reconstruct::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Devices(args) => info::devices(args),
        Command::Kernels(args) => kernels::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Probe => probe::run(),
        Command::SynthModel(args) => {
            let bytes = crate::synth::synthesise(args.preset, &args.dir)?;
            say(&format!("{}: {} MiB", args.dir.display(), bytes >> 20))
        }
    }
}

fn no_handler(found: &str) -> Error {
    Error::Device {
        wanted: "signal handlers".into(),
        found: found.into(),
        remedy: "the system refuses what every program may do; try another environment".into(),
    }
}

/// Prints a line to standard error. If that fails, there is nowhere to report it.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// The text with control characters escaped, which a terminal would obey. JSON stays
/// valid JSON.
fn printable(text: &str) -> Cow<'_, str> {
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(control) {
        return text.into();
    }
    let escape = |c: char| if control(c) { format!("\\u{:04x}", u32::from(c)) } else { c.into() };
    text.chars().map(escape).collect()
}

/// Prints a line of results. It is no error if the reader has closed standard output.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Disk { path: "standard output".into(), action: "write to", source: e })
        }
        _ => Ok(()),
    }
}
