//! Finds the files of a model's components.
//!
//! | Component | Folder layout (`diffusers`) | Single files (original, ComfyUI) |
//! |---|---|---|
//! | Stage A | `vqgan/` | `stage_a`, or inside the Stage B file (`vae.`) |
//! | Stage B | `decoder/`, else `decoder_lite/` | `stage_b[_lite][_bf16]`, `stable_cascade_stage_b` |
//! | Stage C | `prior/`, else `prior_lite/` | `stage_c[_lite][_bf16]`, `stable_cascade_stage_c` |
//! | text encoder | `text_encoder/` | `text_encoder`, or inside the Stage C file |
//! | tokenizer | `tokenizer/` | `tokenizer.json` |
//! | image encoder (optional) | `image_encoder/` | `image_encoder`, or inside the Stage C file (`clip_l_vision.`) |
//! | EfficientNet encoder (optional) | | `effnet_encoder`, or inside the Stage C file (`vae.encoder.`) |
//! | previewer (optional) | `previewer/` | `previewer`, or inside the Stage C file (`vae.previewer.`) |
//!
//! Single files have their sizes in their tensors; what cannot be seen there may stand in `stage_c.json`, `text_encoder.json`
//! and so on beside them, like `config.json` in a folder. The model folder is searched first, then the prior's folder: the one given, or the
//! sibling `<name>-prior` (in the hub's cache, the snapshot of that repository). The small networks (`*_lite`) are used only if the large ones are
//! absent. Which of several variants of a file is taken is up to [`Variant`]; what was there
//! besides is noted. Names only determine where to look; which network a file contains is
//! recognised from its tensors. Whatever is there but is not what it should be is an error,
//! never a reason to look elsewhere.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cache::prior_of;
use super::component::{Component, EFFNET_ENCODER, IMAGE_ENCODER, PREVIEWER, STAGE_A, STAGE_B, STAGE_C, TEXT_ENCODER};
use super::lookup::Lookup;
use super::variant::Variant;
use crate::error::{Error, Result};
use crate::files::{Found, Location};

/// The weights of one component and, in the folder layout, its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFiles {
    /// A safetensors file, or the index of a sharded checkpoint.
    pub weights: Location,
    /// `config.json` in the same folder. Without one, the configuration is inferred from the tensors.
    pub config: Option<Location>,
    /// The variant that was taken, such as `bf16`; "" for files without one.
    pub variant: String,
    /// Files in the same model folder that could have been taken instead.
    pub others: Vec<Location>,
}

/// A weights file of a model, and what could have been taken instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The part that it holds: `stage_a`, `stage_b`, `stage_c` or `text_encoder`.
    pub part: &'static str,
    /// The file, or the index of several.
    pub file: PathBuf,
    /// Files in the same model folder that could have been taken instead.
    pub instead_of: Vec<PathBuf>,
}

/// The files of each component of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPaths {
    /// Stage A.
    pub stage_a: PartFiles,
    /// Stage B.
    pub stage_b: PartFiles,
    /// Stage C.
    pub stage_c: PartFiles,
    /// The CLIP text tower.
    pub text_encoder: PartFiles,
    /// The CLIP vision tower.
    pub image_encoder: Lookup,
    /// The EfficientNet encoder.
    pub effnet_encoder: Lookup,
    /// The previewer.
    pub previewer: Lookup,
    /// A folder with `tokenizer.json` (or `vocab.json` and `merges.txt`), or
    /// the file `tokenizer.json` itself.
    pub tokenizer: Location,
    /// `model_index.json`, which describes the model as a whole.
    pub index: Option<Location>,
    /// `scheduler_config.json` of the model and of the prior, as far as they exist.
    pub schedulers: Vec<Location>,
}

/// Components given individually instead of by a model folder: each a file, or a folder that
/// contains the component's files; and which of several files to take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Stage A weights.
    pub stage_a: Option<Location>,
    /// Stage B weights.
    pub stage_b: Option<Location>,
    /// Stage C weights.
    pub stage_c: Option<Location>,
    /// Text encoder weights.
    pub text_encoder: Option<Location>,
    /// The tokenizer: its folder, or `tokenizer.json`.
    pub tokenizer: Option<Location>,
    /// Image encoder weights.
    pub image_encoder: Option<Location>,
    /// EfficientNet encoder weights.
    pub effnet_encoder: Option<Location>,
    /// Which variant of the weights to take where the folders have several.
    pub variant: Variant,
}

impl ModelPaths {
    /// Finds every component: in the overrides, then in the folders `model` and `prior`.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] names the missing component, the places that
    /// were searched, and the field that sets it. [`Error::Request`] if no
    /// folder was given and the overrides do not cover every component, or none has the variant.
    /// [`Error::Model`] and [`Error::Disk`] if something is there that is not what it should be, or cannot be
    /// looked at.
    pub fn find(model: Option<&Location>, prior: Option<&Location>, overrides: &Overrides) -> Result<Self> {
        let roots = roots(model, prior)?;
        let wanted = &overrides.variant;
        let stage_c = STAGE_C.find(overrides.stage_c.as_ref(), &roots, wanted, None)?;
        let stage_b = STAGE_B.find(overrides.stage_b.as_ref(), &roots, wanted, None)?;
        let (mut indices, mut schedulers) = (Vec::new(), Vec::new());
        for root in &roots {
            indices.extend(there(root, "model_index.json")?);
            let folder = root.join("scheduler");
            if folder.has_folder()? {
                schedulers.extend(there(&folder, "scheduler_config.json")?);
            }
        }
        let lookup = |component: &'static Component, given: &Option<Location>| {
            let (roots, variant, inside) = (roots.clone(), wanted.clone(), stage_c.clone());
            Lookup { component, given: given.clone(), roots, variant, inside }
        };
        let found = Self {
            stage_a: STAGE_A.find(overrides.stage_a.as_ref(), &roots, wanted, Some(&stage_b))?,
            text_encoder: TEXT_ENCODER.find(overrides.text_encoder.as_ref(), &roots, wanted, Some(&stage_c))?,
            image_encoder: lookup(&IMAGE_ENCODER, &overrides.image_encoder),
            effnet_encoder: lookup(&EFFNET_ENCODER, &overrides.effnet_encoder),
            previewer: lookup(&PREVIEWER, &None),
            tokenizer: tokenizer(overrides.tokenizer.as_ref(), &roots)?,
            index: indices.into_iter().next(),
            schedulers,
            stage_b,
            stage_c,
        };
        match wanted {
            Variant::Named(name) if !found.parts().iter().any(|(_, part)| part.variant == *name) => {
                Err(Error::Request {
                    what: "variant".to_owned(),
                    expected: "a variant of the model's weights".to_owned(),
                    found: format!("`{name}`, of which there are none"),
                })
            }
            _ => Ok(found),
        }
    }

    /// The networks, by the names of their fields.
    fn parts(&self) -> [(&'static str, &PartFiles); 4] {
        [
            ("stage_a", &self.stage_a),
            ("stage_b", &self.stage_b),
            ("stage_c", &self.stage_c),
            ("text_encoder", &self.text_encoder),
        ]
    }

    /// Which file each network comes from, and what could have been taken instead.
    pub fn sources(&self) -> Vec<Source> {
        let path = |location: &Location| location.path().to_owned();
        let source = |(part, files): (&'static str, &PartFiles)| Source {
            part,
            file: path(&files.weights),
            instead_of: files.others.iter().map(path).collect(),
        };
        self.parts().map(source).into()
    }

    /// The files besides the weights: configs, indices, and the tokenizer's.
    pub fn texts(&self) -> Vec<PathBuf> {
        let parts = self.parts();
        let weights = parts.iter().map(|(_, part)| part.weights.clone());
        let configs = parts.iter().filter_map(|(_, part)| part.config.clone());
        let tokenizer = TOKENIZER_FILES.iter().map(|name| self.tokenizer.join(name));
        let all = weights.chain(configs).chain(self.index.clone()).chain(self.schedulers.iter().cloned());
        all.chain([self.tokenizer.clone()]).chain(tokenizer).map(|file| file.path().to_owned()).collect()
    }

    /// The tokenizer's files, by their names in its folder.
    ///
    /// # Errors
    /// [`Error::Disk`] and [`Error::Model`] if what is there cannot be looked at, or is no file.
    pub fn tokenizer_files(&self) -> Result<Vec<(&'static str, Location)>> {
        let folder = self.tokenizer.look()? == Found::Folder;
        let file = |name: &'static str| match folder {
            true => Ok((name, there(&self.tokenizer, name)?)),
            false if name == TOKENIZER_FILES[0] => Ok((name, Some(self.tokenizer.clone()))),
            false => {
                let beside = self.tokenizer.with_file_name(name);
                Ok((name, beside.has_file()?.then_some(beside)))
            }
        };
        let found = TOKENIZER_FILES.into_iter().map(file).collect::<Result<Vec<_>>>()?;
        Ok(found.into_iter().filter_map(|(name, file)| Some((name, file?))).collect())
    }

    /// The picture size in pixels (width and height) that the model was trained for, if
    /// `model_index.json` has the key `_native_size`. Python pipelines ignore this key because it
    /// begins with an underscore.
    ///
    /// # Errors
    /// If the file is not valid JSON, or pictures cannot have this size.
    pub fn native_size(&self) -> Result<Option<u32>> {
        #[derive(Deserialize)]
        struct Index {
            #[serde(rename = "_native_size")]
            side: Option<u32>,
        }
        let Some(index) = &self.index else { return Ok(None) };
        let Index { side } = index.read_json()?;
        match side {
            Some(px) if px < 64 || !px.is_multiple_of(8) => Err(Error::Model {
                path: index.path().to_owned(),
                expected: "`_native_size` a multiple of 8 from 64 up".to_owned(),
                found: px.to_string(),
            }),
            _ => Ok(side),
        }
    }
}

/// The file of this name in a folder, if there is one.
fn there(folder: &Location, name: &str) -> Result<Option<Location>> {
    let file = folder.join(name);
    Ok(file.has_file()?.then_some(file))
}

/// The folders to search, in order.
fn roots(model: Option<&Location>, prior: Option<&Location>) -> Result<Vec<Location>> {
    for (given, missing) in [(model, "model folder"), (prior, "folder of the prior")] {
        let Some(root) = given else { continue };
        match root.look()? {
            Found::Folder => {}
            Found::Nothing => {
                return Err(Error::ModelMissing {
                    path: root.path().to_owned(),
                    missing: missing.to_owned(),
                    remedy: "check the path".to_owned(),
                });
            }
            found => {
                const REMEDY: &str =
                    "set single files with `stage_a`, `stage_b`, `stage_c`, `text_encoder` and `tokenizer`";
                return Err(Error::Model {
                    path: root.path().to_owned(),
                    expected: format!("a {missing}"),
                    found: format!("{found}; {REMEDY}"),
                });
            }
        }
    }
    let prior = match (prior, model) {
        (Some(prior), _) => Some(prior.clone()),
        (None, Some(model)) => sibling(model)?,
        (None, None) => None,
    };
    Ok(model.cloned().into_iter().chain(prior).collect())
}

/// The folder `<name>-prior` beside the model's folder, if there is one; or what the hub's cache has of it.
fn sibling(model: &Location) -> Result<Option<Location>> {
    // A path such as `.` has no file name, so it is resolved first.
    let named = match model.path().file_name() {
        Some(_) => model.clone(),
        None => match model.path().canonicalize() {
            Ok(path) => path.into(),
            Err(source) => return Err(Error::Disk { path: model.path().to_owned(), action: "look at", source }),
        },
    };
    let Some(name) = named.path().file_name() else { return Ok(None) };
    let mut name = name.to_owned();
    name.push("-prior");
    let prior = named.with_file_name(name);
    let in_cache = || prior_of(named.path()).map(Location::from);
    Ok(if prior.has_folder()? { Some(prior) } else { in_cache() })
}

/// Files that a tokenizer's folder may have.
pub const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// The tokenizer's folder or file.
fn tokenizer(given: Option<&Location>, roots: &[Location]) -> Result<Location> {
    let missing = |place: &Location| Error::ModelMissing {
        path: place.path().to_owned(),
        missing: "tokenizer (tokenizer.json, or vocab.json and merges.txt; in tokenizer/ or the folder itself)"
            .to_owned(),
        remedy: "download this component of the model, or set it with `tokenizer`".to_owned(),
    };
    let usable = |folder: &Location| -> Result<bool> {
        Ok(there(folder, "tokenizer.json")?.is_some() || there(folder, "vocab.json")?.is_some())
    };
    if let Some(given) = given {
        let found = match given.look()? {
            Found::Folder => usable(given)?,
            _ => given.has_file()?,
        };
        return if found { Ok(given.clone()) } else { Err(missing(given)) };
    }
    for folder in roots.iter().map(|root| root.join("tokenizer")) {
        if folder.has_folder()? {
            if usable(&folder)? {
                return Ok(folder);
            }
            // A folder with other files is an incomplete tokenizer, and no reason to take another.
            if !folder.names()?.is_empty() {
                return Err(missing(&folder));
            }
        }
    }
    for root in roots {
        if usable(root)? {
            return Ok(root.clone());
        }
    }
    Err(match roots.first() {
        Some(root) => missing(root),
        None => Error::Request {
            what: "model".to_owned(),
            expected: "a model folder, or `tokenizer` FILE as well".to_owned(),
            found: "neither".to_owned(),
        },
    })
}
