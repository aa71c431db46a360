//! `cascade-rt convert`: a model, or one file of weights, in another layout or element type.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::interrupt::{after_a_step, asked};
use super::model::{ModelArgs, require};
use super::output::spare;
use super::{note, say};
use crate::convert::{File, Networks};
use crate::error::{Error, Result};
use crate::files::{Found, Location};
use crate::output::{check_writable, write_in_pieces};
use crate::weights::{Layout, Variant};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cascade-rt convert -m stable-cascade --layout comfyui -o comfyui/
  cascade-rt convert -m finetuned.safetensors --layout original --dtype bf16 -o stage_c.safetensors")]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,
}

/// Where and how networks are written.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// New or empty folder for a model; a name that ends in .safetensors for one file of weights.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// diffusers, original or comfyui: names of files and tensors. [default: as they are]
    #[arg(long, value_name = "NAME")]
    layout: Option<Layout>,
    /// Element type of weights: f32, bf16 or f16. [default: as they are]
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    dtype: Option<Dtype>,
    /// Replace a file that exists, though never one that is read.
    #[arg(long)]
    force: bool,
    /// Print nothing but errors and results.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

fn parse_dtype(name: &str) -> std::result::Result<Dtype, String> {
    match name {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::BF16),
        "f16" => Ok(Dtype::F16),
        _ => Err(format!("expected f32, bf16 or f16, got `{name}`")),
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let source = Source::of(&args.model)?;
    args.target.write(&source.networks, source.is_folder, &source.reads)
}

/// Networks that were opened, and where they come from.
pub(super) struct Source {
    pub(super) networks: Networks,
    /// Whether they are a whole model, rather than what one file holds.
    pub(super) is_folder: bool,
    /// The files that are read.
    pub(super) reads: Vec<PathBuf>,
}

impl Source {
    /// A model folder with parts given apart, or a single file.
    ///
    /// # Errors
    /// Those of [`Networks::of_model`] and [`Networks::of_file`].
    pub(super) fn of(model: &ModelArgs) -> Result<Self> {
        match model.single_file()? {
            Some(file) => Self::of_file(&file),
            None => {
                let networks = Networks::of_model(&model.find(Variant::Exact)?)?;
                let reads = networks.reads();
                Ok(Self { networks, is_folder: true, reads })
            }
        }
    }

    /// A model folder, or a single file.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(super) fn at(path: &Location) -> Result<Self> {
        require(path, "model folder or file of weights")?;
        match path.look()? {
            Found::Folder => Self::of(&ModelArgs::of_folder(path.clone())),
            _ => Self::of_file(path),
        }
    }

    fn of_file(file: &Location) -> Result<Self> {
        let networks = Networks::of_file(file)?;
        let reads = networks.reads();
        Ok(Self { networks, is_folder: false, reads })
    }
}

impl Target {
    /// Writes networks, a whole model if `is_folder`, and prints the names of the files.
    ///
    /// # Errors
    /// [`Error::Request`] if the output is there already, or among the files that are read; those of [`File::write`].
    pub(super) fn write(&self, networks: &Networks, is_folder: bool, reads: &[PathBuf]) -> Result<()> {
        let layout = self.layout.unwrap_or_else(|| networks.layout());
        if !self.quiet {
            networks.left_out.iter().for_each(|what| note(&format!("left out: {what}")));
        }
        let files = if is_folder {
            self.require_new_folder()?;
            networks.files(layout, self.dtype)?
        } else {
            if !self.output.extension().is_some_and(|end| end.eq_ignore_ascii_case("safetensors")) {
                return Err(self.refused("a name that ends in .safetensors, for one file of weights"));
            }
            check_writable(&self.output, self.force, false)?;
            vec![networks.file(layout, self.dtype)?]
        };
        let path = |file: &File| if is_folder { self.output.join(&file.path) } else { self.output.clone() };
        spare("--output", files.iter().map(path), reads.to_vec())?;
        let go_on = || if asked() { Err(Error::Interrupted) } else { Ok(()) };
        for file in &files {
            let path = path(file);
            let disk = |source| Error::Disk { path: path.clone(), action: "write", source };
            if let (true, Some(folder)) = (is_folder, path.parent()) {
                fs::create_dir_all(folder).map_err(disk)?;
            }
            let fill = |out: &mut dyn std::io::Write| file.write(networks, out, &disk, &go_on);
            after_a_step(|| write_in_pieces(&path, self.force, fill))?;
            say(&path.display().to_string())?;
        }
        Ok(())
    }

    /// The folder must hold nothing, so that a model is not made of files of two.
    fn require_new_folder(&self) -> Result<()> {
        let there = match Location::from(&self.output).look()? {
            Found::Nothing => return check_writable(&self.output.join("x"), false, true),
            Found::Folder => fs::read_dir(&self.output),
            _ => return Err(self.refused("a new or empty folder, for a whole model")),
        };
        let disk = |source| Error::Disk { path: self.output.clone(), action: "list", source };
        match there.map_err(disk)?.next() {
            None => check_writable(&self.output.join("x"), false, true),
            Some(_) => Err(self.refused("a new or empty folder, for a whole model")),
        }
    }

    fn refused(&self, expected: &str) -> Error {
        let found = Path::new(&self.output).display().to_string();
        Error::Request { what: "--output".into(), expected: expected.into(), found }
    }
}
