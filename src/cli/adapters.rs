//! Adapters (LoRA) by flag and in prompts.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::note;
use crate::adapters::{Adapter, Applied, NewToken};
use crate::error::{Error, Result};
use crate::files::Location;
use crate::model::Model;

/// Names that a message shows at most.
const SHOWN: usize = 5;

/// An adapter's file and its strength: `FILE` or `FILE:STRENGTH`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    path: PathBuf,
    strength: f32,
}

impl Chosen {
    /// The file or folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let number = |s: &str| s.trim().parse::<f32>().ok();
        let (path, strength) = match s.rsplit_once(':') {
            Some((path, end)) if number(end).is_some() => (path, number(end).unwrap_or(1.0)),
            _ => (s, 1.0),
        };
        let is_fine = !path.is_empty() && strength.is_finite();
        is_fine
            .then(|| Self { path: path.into(), strength })
            .ok_or_else(|| format!("expected FILE or FILE:STRENGTH, got `{s}`"))
    }
}

/// Flags of adapters.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Change the model by this adapter (LoRA), a safetensors file or PEFT's folder, with this strength; may be given
    /// several times.
    ///
    /// Files of the original repository, kohya, OneTrainer, ComfyUI, PEFT and diffusers are understood, with DoRA. 1 is the
    /// strength that an adapter was trained with; negative ones lead away from it.
    #[arg(long = "lora", help_heading = super::MODEL, value_name = "FILE[:STRENGTH]", env = "CASCADE_LORA", value_delimiter = ';')]
    chosen: Vec<Chosen>,
    /// Take `<lora:NAME:STRENGTH>` out of prompts, and use NAME.safetensors of this folder.
    #[arg(long = "lora-dir", help_heading = super::MODEL, value_name = "DIR", env = "CASCADE_LORA_DIR")]
    folder: Option<PathBuf>,
    /// Learn the tokens of this file (textual inversion); may be given several times.
    ///
    /// Prompts use the placeholder that the file names, or `<NAME>` and embedding:NAME, where NAME is the file's without
    /// .safetensors. Files of OneTrainer, ComfyUI and diffusers are understood. Embeddings in a --lora file are learned too.
    #[arg(long = "embedding", help_heading = super::MODEL, value_name = "FILE", env = "CASCADE_EMBEDDING", value_delimiter = ';')]
    embeddings: Vec<PathBuf>,
    /// Name a new token of a LoRA of the original repository, which is trained from the mean of those of the vocabulary
    /// that a regular expression matches, as in `[fernando]=^dog</w>`; in the order of its configuration.
    #[arg(long = "token", help_heading = super::MODEL, value_name = "NAME[=PATTERN]", env = "CASCADE_TOKEN", value_delimiter = ';')]
    tokens: Vec<Named>,
}

/// A token and the pattern of those that it begins as: `NAME` or `NAME=PATTERN`.
#[derive(Debug, Clone)]
struct Named {
    text: String,
    token: NewToken,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let (name, pattern) = s.split_once('=').map_or((s, None), |(name, pattern)| (name, Some(pattern)));
        match name.is_empty() {
            false => Ok(Self { text: s.to_owned(), token: NewToken::named(name, pattern) }),
            true => Err(format!("expected NAME or NAME=PATTERN, got `{s}`")),
        }
    }
}

impl Args {
    /// Takes the tags out of prompts, if there is a folder for them; returns what they ask for.
    ///
    /// # Errors
    /// If a tag is not understood or names no file of the folder, or if prompts do not ask for the same.
    pub(super) fn take_tags(&self, prompts: &mut [String]) -> Result<Vec<Chosen>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let mut all: Option<Vec<Chosen>> = None;
        for prompt in prompts {
            let (text, tags) = without_tags(prompt)?;
            let tags =
                tags.iter().map(|(name, strength)| Ok(Chosen { path: named(folder, name)?, strength: *strength }));
            let tags = tags.collect::<Result<Vec<_>>>()?;
            if all.as_ref().is_some_and(|all| *all != tags) {
                return Err(Error::Request {
                    what: "prompts".into(),
                    expected: "the same `<lora:…>` in every prompt of a run".into(),
                    found: format!("others in `{prompt}`; run them apart"),
                });
            }
            *prompt = text;
            all = Some(tags);
        }
        Ok(all.unwrap_or_default())
    }

    /// Names of the adapters that are in the folder.
    #[cfg(feature = "serve")]
    pub(super) fn in_folder(&self) -> Vec<String> {
        let entries = self.folder.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let name = |path: PathBuf| match path.extension().is_some_and(|extension| extension == "safetensors") {
            true => path.file_stem().map(|name| name.to_string_lossy().into_owned()),
            false => {
                let holds = path.join("adapter_model.safetensors").is_file();
                path.file_name().filter(|_| holds).map(|name| name.to_string_lossy().into_owned())
            }
        };
        let mut names: Vec<String> = entries.filter_map(|entry| name(entry.path())).collect();
        names.sort();
        names
    }

    /// An adapter of the folder by its name.
    ///
    /// # Errors
    /// If there is none of this name, or no folder.
    #[cfg(feature = "serve")]
    pub(super) fn named(&self, name: &str, strength: f32) -> Result<Chosen> {
        let folder = self.folder.as_deref().unwrap_or(Path::new(""));
        Ok(Chosen { path: named(folder, name)?, strength })
    }

    /// Changes the model by the adapters of the flags, then by those that prompts ask for.
    ///
    /// # Errors
    /// Those of [`Adapter::open`], [`NewToken::open`], [`Model::learn`] and [`Model::adapt`].
    pub(super) fn apply(&self, model: &mut Model, tags: &[Chosen], quiet: bool) -> Result<()> {
        self.apply_by(tags, quiet, |given| {
            let mut tokens: Vec<NewToken> = self.tokens.iter().map(|named| named.token.clone()).collect();
            for file in &self.embeddings {
                tokens.extend(NewToken::open(file)?);
            }
            tokens.extend(given.iter().flat_map(|(adapter, _)| adapter.new_tokens().to_vec()));
            model.learn(&tokens)?;
            model.adapt(given)
        })
    }

    /// The same, of what `adapt` changes.
    pub(super) fn apply_by(
        &self,
        tags: &[Chosen],
        quiet: bool,
        adapt: impl FnOnce(&[(&Adapter, f32)]) -> Result<Vec<Applied>>,
    ) -> Result<()> {
        let chosen: Vec<&Chosen> = self.chosen.iter().chain(tags).collect();
        apply(&chosen, quiet, adapt)
    }

    /// Names and strengths of adapters, and what else prompts may use, for records.
    pub(super) fn names(&self, tags: &[Chosen]) -> Vec<String> {
        let name = |of: &Chosen| format!("{}:{}", super::name_of(&of.path), of.strength);
        let tokens = self.tokens.iter().map(|named| format!("--token {}", named.text));
        let embeddings = self.embeddings.iter().map(|file| format!("--embedding {}", super::name_of(file)));
        self.chosen.iter().chain(tags).map(name).chain(tokens).chain(embeddings).collect()
    }

    /// The files that are read.
    pub(super) fn files<'a>(&'a self, tags: &'a [Chosen]) -> impl Iterator<Item = &'a Path> {
        let adapters = self.chosen.iter().chain(tags).map(|chosen| chosen.path.as_path());
        adapters.chain(self.embeddings.iter().map(PathBuf::as_path))
    }
}

/// Opens adapters, changes something by them with `adapt`, and says what was changed.
///
/// # Errors
/// Those of [`Adapter::open`] and of `adapt`.
pub(super) fn apply(
    chosen: &[&Chosen],
    quiet: bool,
    adapt: impl FnOnce(&[(&Adapter, f32)]) -> Result<Vec<Applied>>,
) -> Result<()> {
    let open = |chosen: &&Chosen| Ok((Adapter::open(&chosen.path)?, chosen.strength));
    let opened = chosen.iter().map(open).collect::<Result<Vec<_>>>()?;
    let given: Vec<_> = opened.iter().map(|(adapter, strength)| (adapter, *strength)).collect();
    let applied = adapt(&given)?;
    for (applied, (_, strength)) in applied.iter().zip(given).filter(|_| !quiet) {
        let name = applied.path.display();
        let all = applied.applied + applied.unknown.len();
        note(&format!("lora: {name}, strength {strength}, {} of {all} changes applied", applied.applied));
        if !applied.unknown.is_empty() {
            let shown = applied.unknown.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more = applied.unknown.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            note(&format!("warning: {name} has changes that mean nothing in this model: {shown}{more}"));
        }
    }
    Ok(())
}

/// A prompt without its `<lora:NAME:STRENGTH>`, and those.
fn without_tags(prompt: &str) -> Result<(String, Vec<(String, f32)>)> {
    let (mut text, mut tags, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some(start) = rest.find("<lora:") {
        let wrong = || Error::Request {
            what: "prompts".into(),
            expected: "<lora:NAME> or <lora:NAME:STRENGTH>".into(),
            found: rest[start..].chars().take(60).collect(),
        };
        let end = start + rest[start..].find('>').ok_or_else(wrong)?;
        let inside = &rest[start + "<lora:".len()..end];
        let (name, strength) = match inside.split_once(':') {
            Some((name, strength)) => {
                (name, strength.trim().parse().ok().filter(|s: &f32| s.is_finite()).ok_or_else(wrong)?)
            }
            None => (inside, 1.0),
        };
        tags.push((name.trim().to_owned(), strength));
        text.push_str(&rest[..start]);
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    Ok((if tags.is_empty() { text } else { text.trim().to_owned() }, tags))
}

/// The adapter of this name in a folder. The name is a file's, never a path that leads out of the folder.
fn named(folder: &Path, name: &str) -> Result<PathBuf> {
    let is_plain =
        Path::new(name).components().count() == 1 && Path::new(name).file_name().is_some_and(|file| file == name);
    if is_plain {
        let (file, inner) = (folder.join(format!("{name}.safetensors")), folder.join(name));
        if Location::from(&file).has_file()? {
            return Ok(file);
        }
        if Location::from(&inner.join("adapter_model.safetensors")).has_file()? {
            return Ok(inner);
        }
    }
    Err(Error::Request {
        what: "prompts".into(),
        expected: format!("<lora:NAME> where NAME.safetensors is in {}", folder.display()),
        found: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_perhaps_a_strength() {
        let chosen = |s: &str| s.parse::<Chosen>().map(|c| (c.path.display().to_string(), c.strength));
        assert_eq!(chosen("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(chosen("a.safetensors:0.8"), Ok(("a.safetensors".into(), 0.8)));
        assert_eq!(chosen("C:\\a:-1"), Ok(("C:\\a".into(), -1.0)));
        assert_eq!(chosen("C:\\a"), Ok(("C:\\a".into(), 1.0)));
        for bad in ["", ":0.5", "a:inf", "a:NaN"] {
            assert!(chosen(bad).unwrap_err().contains(&format!("got `{bad}`")), "{bad}");
        }
    }

    #[test]
    fn tags_are_taken_out_of_prompts() {
        let (text, tags) = without_tags("<lora:old film:0.5> a fox <lora:x> in snow").unwrap();
        assert_eq!(
            (text.as_str(), tags),
            ("a fox  in snow", vec![("old film".to_owned(), 0.5), ("x".to_owned(), 1.0)])
        );
        assert_eq!(without_tags(" a <b> fox ").unwrap(), (" a <b> fox ".to_owned(), vec![]));
        for bad in ["a <lora:x", "<lora:x:much>", "<lora:x:inf>"] {
            assert!(without_tags(bad).unwrap_err().to_string().contains("<lora:NAME:STRENGTH>"), "{bad}");
        }
    }

    #[test]
    fn names_stay_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::fs::write(folder.path().join("x.safetensors"), "").unwrap();
        assert_eq!(named(folder.path(), "x").unwrap(), folder.path().join("x.safetensors"));
        for bad in ["y", "../x", "", ".", "..", "inner/../x", "/etc/passwd", "inner"] {
            assert!(named(folder.path(), bad).is_err(), "{bad}");
        }
        let args = Args {
            chosen: Vec::new(),
            folder: Some(folder.path().to_owned()),
            embeddings: Vec::new(),
            tokens: Vec::new(),
        };
        // What is there but is no file is not the same as nothing.
        std::fs::create_dir(folder.path().join("z.safetensors")).unwrap();
        assert!(named(folder.path(), "z").unwrap_err().to_string().contains("found a folder"));
        let mut prompts = ["a <lora:x:0.5>".to_owned(), "b <lora:x:0.5>".to_owned()];
        assert_eq!(args.take_tags(&mut prompts).unwrap().len(), 1);
        assert_eq!(prompts, ["a", "b"]);
        let different = args.take_tags(&mut ["a <lora:x>".to_owned(), "b".to_owned()]).unwrap_err().to_string();
        assert!(different.contains("run them apart"), "{different}");
    }
}
