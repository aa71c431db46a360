//! The command line: turns arguments into requests, and results into files.

mod adapters;
mod again;
mod annotate;
mod bench;
mod control;
mod convert;
mod decode;
mod encode;
mod generate;
mod given;
mod grid;
mod hint;
mod hires;
#[cfg(feature = "hub")]
mod hub;
mod image_prompts;
mod info;
mod initial;
mod inspect;
pub mod interrupt;
mod jobs;
mod kernels;
mod make;
mod manual;
mod merge;
mod messages;
mod method;
mod model;
mod output;
mod preview;
mod probe;
mod profile;
mod progress;
mod prompts;
mod quantize;
mod reconstruct;
mod report;
mod seed;
#[cfg(feature = "serve")]
mod serve;
mod setup;
mod tensors;
mod upscale;
mod watch;
mod words;

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use model::{ModelArgs, locate, name_of, require};

use crate::error::{Error, Result};
use crate::synth::Preset;
pub use messages::note;
use messages::{print, printable, say};

// Groups of flags in the help.
const MODEL: &str = "Model";
const DEVICE: &str = "Device";
const PICTURE: &str = "Picture";
const FILES: &str = "Files and messages";

/// Stable Cascade, from prompt to picture, on hand-written kernels.
///
/// Results go to standard output, everything else to standard error. Every flag
/// of `generate` can also be set by an environment variable, like CASCADE_MODEL
/// for --model; an empty one counts as unset.
///
/// Exit codes: 0 done, 2 usage, 3 model missing or bad, 4 does not fit, 5 no
/// usable device, 7 disk, 1 anything else. An interrupted run dies of the
/// signal, which a shell shows as 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP).
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  cascade-rt generate \"a red apple on a blue background\"
  cascade-rt generate \"a fox\" -m stable-cascade -s random -c 4 -o foxes/
  cascade-rt inspect cascade.png"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make pictures from prompts.
    Generate(Box<generate::Args>),
    /// Make pictures from Stage C's latents, which `generate --prior-only` wrote.
    Decode(Box<decode::Args>),
    /// Encode prompts and pictures, for `generate --text` and `--image` or for another program.
    Encode(Box<encode::Args>),
    /// Encode a picture and decode it again: what the model keeps of it.
    Reconstruct(Box<reconstruct::Args>),
    /// Make a picture twice as wide and as high, by the super-resolution ControlNet.
    Upscale(Box<upscale::Args>),
    /// Write a model, or one file of weights, in another layout or element type.
    Convert(Box<convert::Args>),
    /// Write a model with the weights of most layers rounded to int8: half the size of bf16, and faster on a CPU.
    Quantize(Box<quantize::Args>),
    /// Mix two models, or merge adapters (LoRA) into one, and write the result.
    Merge(Box<merge::Args>),
    /// Serve a page and the API of OpenAI's images, until Ctrl-C or SIGTERM.
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
    /// Fetch a model from a hub, into the cache that other programs share.
    #[cfg(feature = "hub")]
    Pull(Box<hub::PullArgs>),
    /// List the models in that cache.
    #[cfg(feature = "hub")]
    Ls(hub::ListArgs),
    /// Remove a model from that cache.
    #[cfg(feature = "hub")]
    Rm(hub::RemoveArgs),
    /// Find edges in a picture, as a canny ControlNet is told of them.
    #[command(subcommand)]
    Annotate(annotate::Annotate),
    /// Show what a model folder, a safetensors file or a picture contains.
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
    /// Print completions of commands and flags, for a shell to load.
    #[command(
        after_help = "Example:\n  cascade-rt completions bash > ~/.local/share/bash-completion/completions/cascade-rt"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page, of the program or of one command.
    #[command(after_help = "Example:\n  cascade-rt man generate | man -l -")]
    Man {
        /// The command.
        command: Option<String>,
    },
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

/// Parses the command line and does what it says.
///
/// # Errors
/// Whatever goes wrong. Usage errors that the parser finds end the process with
/// code 2 at once.
pub fn run() -> Result<()> {
    silence_wayland();
    let cli = Cli::from_arg_matches(&parser().get_matches()).unwrap_or_else(|e| e.exit());
    execute(&cli.command).map_err(words::for_the_command_line)
}

/// The parser. An environment variable that is empty counts as unset, and one of a flag without a value may be
/// 0 or 1, yes or no, on or off, true or false.
fn parser() -> clap::Command {
    let of_environment = |arg: clap::Arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        let arg = if empty { arg.env(clap::builder::Resettable::Reset) } else { arg };
        match arg.get_action() {
            clap::ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            _ => arg,
        }
    };
    Cli::command().mut_subcommands(|command| command.mut_args(of_environment))
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
    start_threads()?;
    match command {
        Command::Generate(args) => generate::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Reconstruct(args) => reconstruct::run(args),
        Command::Upscale(args) => upscale::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Annotate(what) => annotate::run(what),
        Command::Quantize(args) => quantize::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args),
        #[cfg(feature = "hub")]
        Command::Pull(args) => hub::pull(args),
        #[cfg(feature = "hub")]
        Command::Ls(args) => hub::list(args),
        #[cfg(feature = "hub")]
        Command::Rm(args) => hub::remove(args),
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
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut parser(), "cascade-rt", &mut text);
            print(&text)
        }
        Command::Man { command } => print(&manual::page(command.as_deref())?),
    }
}

/// Starts the threads that kernels run on: as many as RAYON_NUM_THREADS says, or as the machine has cores.
fn start_threads() -> Result<()> {
    const NAME: &str = "RAYON_NUM_THREADS";
    const MOST: usize = 1024;
    match std::env::var(NAME).ok().and_then(|text| text.parse::<usize>().ok()) {
        Some(count) if count > MOST => Err(Error::Request {
            what: NAME.into(),
            expected: format!("at most {MOST} threads"),
            found: count.to_string(),
        }),
        _ => crate::backend::devices::start_threads(),
    }
}

fn no_handler(found: &str) -> Error {
    Error::Device {
        wanted: "signal handlers".into(),
        found: found.into(),
        remedy: "the system refuses what every program may do; try another environment".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_and_its_texts_are_well_formed() {
        parser().debug_assert();
        for command in [None, Some("generate"), Some("decode")] {
            let page = String::from_utf8(manual::page(command).unwrap()).unwrap().replace("\\-", "-");
            let title = command.map_or("cascade-rt".to_owned(), |name| format!("cascade-rt-{name}"));
            assert!(page.contains(&format!(".TH {title} 1")), "{page}");
        }
        assert!(manual::page(Some("paint")).is_err());
    }
}
