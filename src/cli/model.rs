//! Which model a command takes: its folder, and parts given apart.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};

use super::MODEL;
use crate::demo;
use crate::error::{Error, Result};
use crate::files::{Found, Location};
use crate::weights::cache::{self, Cache, Repository};
use crate::weights::{ModelPaths, Overrides, Variant};

/// Where a model's parts are.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelArgs {
    /// Model folder, with decoder/ and vqgan/ or the original single files; or the name of a model that was fetched with
    /// `pull`, like stable-cascade or stabilityai/stable-cascade, where no folder has that name.
    ///
    /// `demo`, where no folder has that name, is the small model built into this
    /// program. It is also what runs if neither a folder nor a part is given.
    #[arg(short, long, value_name = "PATH", value_parser = PathBufValueParser::new().map(locate), help_heading = MODEL, env = "CASCADE_MODEL")]
    model: Option<Location>,
    /// Folder with prior/, if it is neither in the model folder nor beside it.
    #[arg(long, value_name = "PATH", help_heading = MODEL, env = "CASCADE_PRIOR")]
    prior: Option<Location>,
    /// Stage A weights, instead of the folder's.
    #[arg(long, value_name = "FILE", help_heading = MODEL, env = "CASCADE_STAGE_A")]
    stage_a: Option<Location>,
    /// Stage B weights, instead of the folder's.
    #[arg(long, value_name = "FILE", help_heading = MODEL, env = "CASCADE_STAGE_B")]
    stage_b: Option<Location>,
    /// Stage C weights, instead of the folder's.
    #[arg(long, value_name = "FILE", help_heading = MODEL, env = "CASCADE_STAGE_C")]
    stage_c: Option<Location>,
    /// Text encoder weights, instead of the folder's.
    #[arg(long, value_name = "FILE", help_heading = MODEL, env = "CASCADE_TEXT_ENCODER")]
    text_encoder: Option<Location>,
    /// Tokenizer file or folder, instead of the folder's.
    #[arg(long, value_name = "FILE", help_heading = MODEL, env = "CASCADE_TOKENIZER")]
    tokenizer: Option<Location>,
    /// Which weights to take where the model has several: `none`, or the name in a file's name, such as bf16; as
    /// `variant` in diffusers. Without it: bf16, else those without a name; with --dtype f32 the other way round.
    #[arg(long, value_name = "NAME", help_heading = MODEL, env = "CASCADE_VARIANT")]
    pub(super) variant: Option<Variant>,
    /// Image encoder weights, for --image, instead of the folder's.
    #[arg(long, value_name = "FILE", help_heading = MODEL, env = "CASCADE_IMAGE_ENCODER")]
    image_encoder: Option<Location>,
    /// EfficientNet encoder weights, for --init, `reconstruct` and `encode`, instead of the folder's.
    #[arg(long, value_name = "FILE", help_heading = MODEL, env = "CASCADE_EFFNET_ENCODER")]
    effnet_encoder: Option<Location>,
}

impl ModelArgs {
    /// Whether a model folder or any part of a model was given.
    pub(super) fn is_given(&self) -> bool {
        self.model.is_some() || self.prior.is_some() || self.parts() != Overrides::default()
    }

    /// A model folder alone.
    pub(super) fn of_folder(folder: Location) -> Self {
        Self {
            model: Some(folder),
            prior: None,
            stage_a: None,
            stage_b: None,
            stage_c: None,
            text_encoder: None,
            tokenizer: None,
            variant: None,
            image_encoder: None,
            effnet_encoder: None,
        }
    }

    /// The file of weights that was given in place of a model folder, without any other parts.
    pub(super) fn single_file(&self) -> Result<Option<Location>> {
        let alone = self.prior.is_none() && self.parts() == Overrides::default();
        match &self.model {
            Some(given) if alone && given.look()? == Found::File => Ok(Some(given.clone())),
            _ => Ok(None),
        }
    }

    /// The model folder that was given, or the built-in model if nothing was given.
    pub(super) fn folder(&self) -> Result<Option<Location>> {
        if self.is_given() {
            self.model.iter().try_for_each(|folder| require(folder, "model folder"))?;
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
            ..Overrides::default()
        }
    }

    /// The model's files; `usual` is which to take where there are several and no variant was given.
    pub(super) fn find(&self, usual: Variant) -> Result<ModelPaths> {
        let overrides = Overrides { variant: self.variant.clone().unwrap_or(usual), ..self.parts() };
        ModelPaths::find(self.folder()?.as_ref(), self.prior.as_ref(), &overrides)
    }

    /// Names for records: the model's, which is its folder's or that of Stage C's file; and those of parts that were
    /// given apart, by their flags.
    pub(super) fn names(&self) -> Result<(String, BTreeMap<String, String>)> {
        let parts = [
            ("prior", &self.prior),
            ("stage_a", &self.stage_a),
            ("stage_b", &self.stage_b),
            ("stage_c", &self.stage_c),
            ("text_encoder", &self.text_encoder),
            ("tokenizer", &self.tokenizer),
            ("image_encoder", &self.image_encoder),
            ("effnet_encoder", &self.effnet_encoder),
        ];
        let given = |(flag, part): (&str, &Option<Location>)| Some((flag.to_owned(), name_of(part.as_ref()?.path())));
        let model = self.folder()?.or_else(|| self.stage_c.clone());
        let model = model.map_or(String::new(), |location| name_of(location.path()));
        Ok((model, parts.into_iter().filter_map(given).collect()))
    }
}

/// The name of a model's file or folder. In the cache of the Hugging Face hub, where files are called by hashes, that
/// is the repository's: `models--org--name/snapshots/HASH/prior` is `org/name/prior`.
pub(super) fn name_of(path: &Path) -> String {
    // A link is called by its own name, which in the cache is the file's.
    let parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let real = if path.is_dir() { path.canonicalize().ok() } else { parent() };
    let real = real.unwrap_or_else(|| path.to_owned());
    let parts: Vec<String> = real.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let repository = parts.iter().rposition(|part| part.starts_with("models--"));
    match repository.filter(|at| parts.get(at + 1).is_some_and(|part| part == "snapshots")) {
        Some(at) => {
            let repository = parts[at].trim_start_matches("models--").replace("--", "/");
            [&[repository], parts.get(at + 3..).unwrap_or_default()].concat().join("/")
        }
        None => parts.last().cloned().unwrap_or_default(),
    }
}

/// The location that a path names. Where nothing is there, it may be the name of the built-in model, or of one in the hub's
/// cache; where a repository's folder of such a cache is there, it stands for the files in it.
pub(super) fn locate(path: PathBuf) -> Location {
    if path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        let built_in = demo::MODEL.filter(|model| path.as_os_str() == model.name).map(Location::from);
        let fetched = || Some(Cache::of_user()?.snapshot(&repository(&path)?)?.into());
        return built_in.or_else(fetched).unwrap_or_else(|| path.into());
    }
    cache::current(&path).unwrap_or(path).into()
}

/// The repository that a path could be the name of.
fn repository(path: &Path) -> Option<Repository> {
    path.to_str()?.parse().ok()
}

/// Fails where nothing is at a location, with what to do about it.
///
/// # Errors
/// [`Error::ModelMissing`], and those of [`Location::look`].
pub(super) fn require(location: &Location, missing: &str) -> Result<()> {
    if location.look()? != Found::Nothing {
        return Ok(());
    }
    let remedy = match repository(location.path()) {
        Some(_) => format!("check the path; or fetch the model of this name: `cascade-rt pull {}`", location.display()),
        None => "check the path".into(),
    };
    Err(Error::ModelMissing { path: location.path().to_owned(), missing: missing.into(), remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let room = tempfile::tempdir().unwrap();
        let snapshot = room.path().join("hub/models--stabilityai--stable-cascade/snapshots/e3aee2f/prior");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(room.path().join("sc-1.5/models--x")).unwrap();
        for (path, name) in [
            ("hub/models--stabilityai--stable-cascade/snapshots/e3aee2f", "stabilityai/stable-cascade"),
            ("hub/models--stabilityai--stable-cascade/snapshots/e3aee2f/prior/..", "stabilityai/stable-cascade"),
            (
                "hub/models--stabilityai--stable-cascade/snapshots/e3aee2f/prior/x.safetensors",
                "stabilityai/stable-cascade/prior/x.safetensors",
            ),
            ("sc-1.5", "sc-1.5"),
            ("sc-1.5/.", "sc-1.5"),
            ("sc-1.5/models--x", "models--x"),
            ("sc-1.5/none.safetensors", "none.safetensors"),
        ] {
            assert_eq!(name_of(&room.path().join(path)), name, "{path}");
        }
        assert_eq!(name_of(Path::new("demo")), "demo");
    }
}
