//! `cascade-rt inspect`: what a model folder, a safetensors file or a picture contains.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use clap::builder::{PathBufValueParser, TypedValueParser};

use super::setup::aligned;
use super::{given, locate, printable, require, say};
use crate::error::{Error, Result, short};
use crate::files::{Found, Location};
use crate::image::{is_picture, read_metadata};
use crate::weights::file::Stored;
use crate::weights::{Checkpoint, ModelPaths, Overrides};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A model folder, a safetensors file or a picture; or where no file or folder has that name, `demo`, the built-in
    /// model, or the name of a model that was fetched.
    #[arg(value_name = "PATH", value_parser = PathBufValueParser::new().map(locate))]
    path: Location,
    /// List every tensor by module, with dimensions, type and size.
    #[arg(long)]
    tensors: bool,
    /// List only tensors whose names contain this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Read all weights and report NaN or infinity.
    #[arg(long)]
    finite: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    require(&args.path, "model folder, weights file or picture")?;
    if args.path.look()? == Found::Folder {
        return folder(args);
    }
    let path = args.path.path();
    let there = fs::metadata(path).map_err(|source| Error::Disk { path: path.to_owned(), action: "open", source })?;
    let mut start = [0u8; 8];
    // Not of a pipe, which might wait for ever.
    if there.is_file() {
        let mut open =
            File::open(path).map_err(|source| Error::Disk { path: path.to_owned(), action: "open", source })?;
        let read = open.read(&mut start);
        read.map_err(|source| Error::Disk { path: path.to_owned(), action: "read", source })?;
    }
    if is_picture(&start) {
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
    say(&format!("{}: {}, {}×{} px", path.display(), metadata.format, metadata.width, metadata.height))?;
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
    let mut parts =
        vec![paths.stage_c.clone(), paths.stage_b.clone(), paths.stage_a.clone(), paths.text_encoder.clone()];
    for lookup in [&paths.image_encoder, &paths.effnet_encoder, &paths.previewer] {
        match lookup.find() {
            Err(Error::ModelMissing { .. }) => {}
            found => parts.push(found?),
        }
    }
    for part in &parts {
        file(&part.weights, args)?;
        if let Some(config) = &part.config {
            say(&printable(&format!("  config {}", config.display())))?;
        }
        for other in &part.others {
            say(&printable(&format!("  instead of {}", other.display())))?;
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
        say(&printable(&format!("{}: {}, {scheme}", file.display(), network.kind())))?;
        for (dtype, (tensors, elements)) in types {
            say(&format!("  {dtype}: {tensors} tensors, {elements} parameters"))?;
        }
        if args.tensors || args.filter.is_some() {
            list(&network, args.filter.as_deref().unwrap_or_default()).iter().try_for_each(|line| say(line))?;
        }
        if args.finite {
            match network.first_non_finite() {
                Some((name, index)) => say(&printable(&format!("  NaN or infinity in `{name}`, element {index}")))?,
                None => say("  all weights are finite")?,
            }
        }
    }
    Ok(())
}

/// The lines of a table of the tensors whose names contain `filter`: a line for each module with its size, then a line
/// for each of its tensors.
fn list(network: &Checkpoint, filter: &str) -> Vec<String> {
    let mut modules: BTreeMap<&str, Vec<(&str, &Stored)>> = BTreeMap::new();
    for name in network.names().filter(|name| name.contains(filter)) {
        let Some(stored) = network.stored(name) else { continue };
        let (module, rest) = split(name);
        modules.entry(module).or_default().push((rest, stored));
    }
    let mut rows = Vec::new();
    for (module, tensors) in modules {
        let all: usize = tensors.iter().map(|(_, stored)| stored.bytes()).sum();
        rows.push(vec![format!("  {}", short(module)), String::new(), String::new(), size(all)]);
        for (name, stored) in tensors {
            let dims: Vec<String> = stored.dims.iter().map(usize::to_string).collect();
            let dims = if dims.is_empty() { "one value".to_owned() } else { dims.join("×") };
            rows.push(vec![format!("    {}", short(name)), dims, format!("{:?}", stored.dtype), size(stored.bytes())]);
        }
    }
    aligned(&rows)
}

/// A tensor's module and its name in there. A module is what is numbered, such as `down_blocks.0.4` or
/// `text_model.encoder.layers.3`, or else the first part of the name.
fn split(name: &str) -> (&str, &str) {
    let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let dots: Vec<usize> = name.match_indices('.').map(|(at, _)| at).collect();
    // The parts between dots: `parts[i]` ends at `dots[i]`.
    let parts: Vec<&str> = name.split('.').collect();
    let first = parts.iter().position(|part| is_number(part)).filter(|&first| first < dots.len());
    let end = first.map_or(0, |first| (first..dots.len()).take_while(|&i| is_number(parts[i])).last().unwrap_or(first));
    match dots.get(end) {
        Some(&dot) => (&name[..dot], &name[dot + 1..]),
        None => ("", name),
    }
}

/// A number of bytes in the largest unit of which there is one.
pub(super) fn size(bytes: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_belong_to_modules() {
        for (name, module, rest) in [
            ("down_blocks.0.4.attention.to_q.weight", "down_blocks.0.4", "attention.to_q.weight"),
            ("text_model.encoder.layers.3.mlp.fc1.bias", "text_model.encoder.layers.3", "mlp.fc1.bias"),
            ("clip_txt_mapper.weight", "clip_txt_mapper", "weight"),
            ("embedding.1.weight", "embedding.1", "weight"),
            ("blocks.0", "blocks", "0"),
            ("scale", "", "scale"),
            ("", "", ""),
        ] {
            assert_eq!(split(name), (module, rest), "{name}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (7 << 29, "3.5 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
