//! Prompts: one as an argument or from a pipe; or a file of them, each perhaps with settings of its own.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::seed::Seed;
use super::setup::Sampling;
use crate::error::{Error, Result};
use crate::request::{Request, parse_guidance, parse_hires, parse_steps, parse_strength, parse_whole};

/// Longest file of prompts, in bytes.
const LIMIT: u64 = 64 << 20;
/// What a line of JSON may say.
const FIELDS: &str = "prompt, negative, width, height, seed, steps, guidance, count, noise, hires, \
                      hires_strength, output, and flags under Sampling, like sampler";

/// A line of a file of prompts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Where it is, for messages.
    place: String,
    /// By the names of [`FIELDS`].
    fields: Map<String, Value>,
}

/// What a line asks for.
pub(super) struct Asked {
    pub(super) request: Request,
    /// Whether it says which seed.
    pub(super) seeded: bool,
    /// Whether it says which width and height.
    pub(super) sized: [bool; 2],
    /// Where its pictures go, if it says so.
    pub(super) output: Option<PathBuf>,
}

impl Line {
    /// A prompt without settings.
    pub(super) fn of(prompt: &str) -> Self {
        Self { place: "PROMPT".into(), fields: Map::from_iter([("prompt".to_owned(), prompt.into())]) }
    }

    /// What an object of JSON asks for; `place` is for messages.
    #[cfg(feature = "serve")]
    pub(super) fn of_fields(place: &str, fields: Map<String, Value>) -> Self {
        Self { place: place.into(), fields }
    }

    /// Its prompt, if it has one.
    pub(super) fn prompt(&self) -> String {
        self.fields.get("prompt").map_or(String::new(), plain)
    }

    /// This line with a setting, in place of what it says of that.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut line = self.clone();
        line.fields.insert(name.to_owned(), value.into());
        line
    }

    /// This line, and what a setting is if it says nothing of that.
    pub(super) fn or(mut self, name: &str, value: &str) -> Self {
        self.fields.entry(name).or_insert_with(|| value.into());
        self
    }

    /// The request with what this line says in place of what `base` does.
    ///
    /// # Errors
    /// [`Error::Request`] with the line and the field.
    pub(super) fn apply(&self, base: &Request) -> Result<Asked> {
        let wrong = |field: &str, expected: &str, found: &str| Error::Request {
            what: format!("{}: `{field}`", self.place),
            expected: expected.into(),
            found: found.into(),
        };
        let mut asked = Asked { request: base.clone(), seeded: false, sized: [false; 2], output: None };
        if !self.fields.contains_key("prompt") {
            return Err(wrong("prompt", "what the picture shows", "nothing"));
        }
        for (name, value) in &self.fields {
            let text = plain(value);
            let Asked { request, seeded, sized, output } = &mut asked;
            let set: std::result::Result<(), String> = match name.as_str() {
                "prompt" => string(value).map(|prompt| request.prompts = vec![prompt]),
                "negative" => string(value).map(|negative| request.negative = negative),
                "output" => string(value).map(|path| *output = Some(path.into())),
                "width" => parse_whole(&text).map(|width| (request.width, sized[0]) = (width, true)),
                "height" => parse_whole(&text).map(|height| (request.height, sized[1]) = (height, true)),
                "seed" => text.parse().map(|seed: Seed| (request.seed, *seeded) = (seed.value(), true)),
                "steps" => parse_steps(&text).map(|steps| request.steps = steps),
                "guidance" => parse_guidance(&text).map(|guidance| request.guidance = guidance),
                "count" => parse_whole(&text).map(|count| request.count = count),
                "hires" => parse_hires(&text).map(|factor| request.hires = factor),
                "hires_strength" => parse_strength(&text).map(|strength| request.hires_strength = strength),
                "noise" => text.parse().map(|noise| request.noise = noise),
                _ => match Sampling::of(name, &text) {
                    Some(sampled) => sampled.map(|sampling| *request = sampling.apply(request.clone())),
                    None => return Err(wrong(name, &format!("only {FIELDS}"), &value.to_string())),
                },
            };
            set.map_err(|message| {
                let expected = message.split(", got ").next().unwrap_or_default();
                wrong(name, expected.trim_start_matches("expected "), &value.to_string())
            })?;
        }
        Ok(asked)
    }
}

fn string(value: &Value) -> std::result::Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "expected text".into())
}

/// A value as it would be written on the command line: `[20, 10]` is `20,10`.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

/// The prompt that an argument stands for: itself, or for `-` what standard input holds.
///
/// # Errors
/// If standard input cannot be read, or is no text.
pub(super) fn one(argument: &str) -> Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let text = text("PROMPT -", Path::new("standard input"), &mut stdin().lock())?;
    Ok(text.strip_suffix('\n').map_or(&text[..], |text| text.trim_end_matches('\r')).to_owned())
}

/// The prompts in a file, or in standard input for `-`: one a line, empty lines skipped; or an object of JSON a
/// line, with `prompt` and settings.
///
/// # Errors
/// If the file cannot be read, is not UTF-8, is too long, or holds no prompt.
pub(super) fn read(path: &Path) -> Result<Vec<Line>> {
    let flag = format!("--prompts {}", path.display());
    let text = match path == Path::new("-") {
        true => text(&flag, Path::new("standard input"), &mut stdin().lock())?,
        false => {
            let open = File::open(path);
            let mut file = open.map_err(|source| Error::Disk { path: path.to_owned(), action: "read", source })?;
            text(&flag, path, &mut file)?
        }
    };
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines: Vec<(usize, &str)> = lines.filter(|(_, line)| !line.trim().is_empty()).collect();
    let Some((_, first)) = lines.first() else { return Err(wrong(&flag, "no prompt".into())) };
    // A prompt in plain text may begin with a brace, but is no object with a prompt in it.
    let is_json = serde_json::from_str::<Map<String, Value>>(first).is_ok_and(|fields| fields.contains_key("prompt"));
    let line = |(i, text): &(usize, &str)| -> Result<Line> {
        let place = format!("{flag}, line {}", i + 1);
        if !is_json {
            return Ok(Line { place, ..Line::of(text) });
        }
        let fields = serde_json::from_str(text).map_err(|e| Error::Request {
            what: place.clone(),
            expected: "an object of JSON in every line, as in the first".into(),
            found: e.to_string(),
        })?;
        Ok(Line { place, fields })
    };
    lines.iter().map(line).collect()
}

fn text(what: &str, path: &Path, from: &mut impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    let read = from.take(LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::Disk { path: path.to_owned(), action: "read", source })?;
    if bytes.len() as u64 > LIMIT {
        return Err(wrong(what, "more".into()));
    }
    String::from_utf8(bytes).map_err(|e| wrong(what, e.utf8_error().to_string()))
}

fn wrong(what: &str, found: String) -> Error {
    let expected = "UTF-8 text with one prompt a line, at most 64 MiB".into();
    Error::Request { what: what.into(), expected, found }
}
