//! `cascade-rt inspect`: what a model folder, a safetensors file or a generated PNG contains.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use clap::builder::{PathBufValueParser, TypedValueParser};

use super::{given, locate, printable, say};
use crate::error::{Error, Result};
use crate::files::Location;
use crate::image::read_metadata;
use crate::weights::Checkpoint;
use crate::weights::paths::{ModelPaths, Overrides};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A model folder, a safetensors file or a PNG; or `demo`, the built-in model, where no file or folder has that name.
    #[arg(value_name = "PATH", value_parser = PathBufValueParser::new().map(locate))]
    path: Location,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    /// Read all weights and report NaN or infinity.
    #[arg(long)]
    finite: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.path.is_dir() {
        return folder(args);
    }
    let path = args.path.path();
    let there = fs::metadata(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::ModelMissing {
            path: path.to_owned(),
            missing: "model folder, weights file or picture".into(),
            remedy: "check the path".into(),
        },
        _ => Error::Disk { path: path.to_owned(), action: "open", source },
    })?;
    let mut start = [0u8; 8];
    // Not of a pipe, which might wait for ever.
    if there.is_file() {
        let mut open =
            File::open(path).map_err(|source| Error::Disk { path: path.to_owned(), action: "open", source })?;
        let read = open.read(&mut start);
        read.map_err(|source| Error::Disk { path: path.to_owned(), action: "read", source })?;
    }
    let png = start == *b"\x89PNG\r\n\x1a\n";
    if png {
        return picture(path);
    }
    file(&args.path, args)?;
    match given::record(path)? {
        Some(record) => say(&printable(&record.parameters())),
        None => Ok(()),
    }
}

fn picture(path: &Path) -> Result<()> {
    let metadata = read_metadata(path)?;
    say(&format!("{}: PNG, {}×{} px", path.display(), metadata.width, metadata.height))?;
    match (&metadata.parameters, &metadata.cascade) {
        (None, None) => say("no record of how it was made")?,
        (parameters, cascade) => {
            // Somebody else's text must not command our terminal.
            parameters.iter().chain(cascade).try_for_each(|text| say(&printable(text)))?;
        }
    }
    Ok(())
}

fn folder(args: &Args) -> Result<()> {
    let paths = ModelPaths::find(Some(&args.path), None, &Overrides::default())?;
    let parts = [&paths.stage_c, &paths.stage_b, &paths.stage_a, &paths.text_encoder];
    for part in parts.into_iter().chain(&paths.image_encoder).chain(&paths.effnet_encoder) {
        file(&part.weights, args)?;
        if let Some(config) = &part.config {
            say(&format!("  config {}", config.display()))?;
        }
    }
    say(&format!("{}: tokenizer", paths.tokenizer.display()))?;
    match paths.native_size()? {
        Some(side) => say(&format!("{}: made for pictures of {side}×{side} px", args.path.display())),
        None => Ok(()),
    }
}

fn file(file: &Location, args: &Args) -> Result<()> {
    for network in Checkpoint::open_all(file)? {
        let mut types: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for stored in network.names().filter_map(|name| network.stored(name)) {
            let entry = types.entry(format!("{:?}", stored.dtype)).or_default();
            entry.0 += 1;
            entry.1 += stored.dims.iter().product::<usize>() as u64;
        }
        let scheme = if network.original { "original names" } else { "diffusers names" };
        say(&format!("{}: {}, {scheme}", file.display(), network.kind()))?;
        for (dtype, (tensors, elements)) in types {
            say(&format!("  {dtype}: {tensors} tensors, {elements} parameters"))?;
        }
        if args.tensors {
            for name in network.names() {
                let stored = network.stored(name);
                say(&format!("  {name} {:?} {:?}", stored.map(|s| &s.dims), stored.map(|s| s.dtype)))?;
            }
        }
        if args.finite {
            match network.first_non_finite() {
                Some((name, index)) => say(&format!("  NaN or infinity in `{name}`, element {index}"))?,
                None => say("  all weights are finite")?,
            }
        }
    }
    Ok(())
}
