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
//!
//! The model folder is searched first, then the prior's folder: the one given, or the
//! sibling `<name>-prior`. The small networks (`*_lite`) are used only if
//! the large ones are absent. Of several variants of a file, the preferred one is bf16, then
//! the one without a variant (f32, twice the size), then fp16. Names only determine where
//! to look; which network a file contains is recognised from its tensors.

use std::path::PathBuf;

use serde::Deserialize;

use super::checkpoint::Checkpoint;
use super::kind::NetworkKind;
use crate::error::{Error, Result};
use crate::files::Location;

/// The weights of one component and, in the folder layout, its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFiles {
    /// A safetensors file, or the index of a sharded checkpoint.
    pub weights: Location,
    /// `config.json` in the same folder. Without one, the configuration is inferred from the tensors.
    pub config: Option<Location>,
}

/// A component that text to image does without: its files, or what to say where it is needed.
pub type Optional = std::result::Result<PartFiles, Missing>;

/// What to say of a component that was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    path: PathBuf,
    missing: String,
    remedy: String,
}

impl Missing {
    /// A component of a model that has no files.
    pub fn of(missing: &str, remedy: &str) -> Self {
        Self { path: PathBuf::from("synthetic"), missing: missing.to_owned(), remedy: remedy.to_owned() }
    }

    /// The error for whoever needs it.
    pub fn error(&self) -> Error {
        let Self { path, missing, remedy } = self.clone();
        Error::ModelMissing { path, missing, remedy }
    }
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
    pub image_encoder: Optional,
    /// The EfficientNet encoder.
    pub effnet_encoder: Optional,
    /// A folder with `tokenizer.json` (or `vocab.json` and `merges.txt`), or
    /// the file `tokenizer.json` itself.
    pub tokenizer: Location,
    /// `model_index.json`, which describes the model as a whole.
    pub index: Option<Location>,
    /// `scheduler_config.json` of the model and of the prior, as far as they exist.
    pub schedulers: Vec<Location>,
}

/// Components given individually instead of by a model folder: each a file, or a folder that
/// contains the component's files.
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
}

/// The name of a component, and where it may be in a model folder.
struct Component {
    what: &'static str,
    field: &'static str,
    kind: NetworkKind,
    /// Folders in the order of preference.
    folders: &'static [&'static str],
    /// Name of the weights file in these folders, without variant and extension.
    stem: &'static str,
    /// Single files in the order of preference.
    files: &'static [&'static str],
}

const STAGE_A: Component = Component {
    what: "Stage A weights",
    field: "stage_a",
    kind: NetworkKind::StageA,
    folders: &["vqgan"],
    stem: "diffusion_pytorch_model",
    files: &["stage_a.safetensors"],
};
const STAGE_B: Component = Component {
    what: "Stage B weights",
    field: "stage_b",
    kind: NetworkKind::StageB,
    folders: &["decoder", "decoder_lite"],
    stem: "diffusion_pytorch_model",
    files: &[
        "stage_b_bf16.safetensors",
        "stage_b.safetensors",
        "stable_cascade_stage_b.safetensors",
        "stage_b_lite_bf16.safetensors",
        "stage_b_lite.safetensors",
    ],
};
const STAGE_C: Component = Component {
    what: "Stage C weights",
    field: "stage_c",
    kind: NetworkKind::StageC,
    folders: &["prior", "prior_lite"],
    stem: "diffusion_pytorch_model",
    files: &[
        "stage_c_bf16.safetensors",
        "stage_c.safetensors",
        "stable_cascade_stage_c.safetensors",
        "stage_c_lite_bf16.safetensors",
        "stage_c_lite.safetensors",
    ],
};
const TEXT_ENCODER: Component = Component {
    what: "text encoder weights",
    field: "text_encoder",
    kind: NetworkKind::TextEncoder,
    folders: &["text_encoder"],
    stem: "model",
    files: &["text_encoder.safetensors"],
};

const IMAGE_ENCODER: Component = Component {
    what: "image encoder weights",
    field: "image_encoder",
    kind: NetworkKind::VisionEncoder,
    folders: &["image_encoder"],
    stem: "model",
    files: &["image_encoder.safetensors"],
};

const EFFNET_ENCODER: Component = Component {
    what: "EfficientNet encoder weights",
    field: "effnet_encoder",
    kind: NetworkKind::EffnetEncoder,
    folders: &[],
    stem: "",
    files: &["effnet_encoder.safetensors"],
};

impl ModelPaths {
    /// Finds every component: in the overrides, then in the folders `model` and `prior`.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] names the missing component, the places that
    /// were searched, and the field that sets it. [`Error::Request`] if no
    /// folder was given and the overrides do not cover every component.
    pub fn find(model: Option<&Location>, prior: Option<&Location>, overrides: &Overrides) -> Result<Self> {
        let roots = roots(model, prior)?;
        let stage_c = STAGE_C.find(overrides.stage_c.as_ref(), &roots, None)?;
        let stage_b = STAGE_B.find(overrides.stage_b.as_ref(), &roots, None)?;
        Ok(Self {
            stage_a: STAGE_A.find(overrides.stage_a.as_ref(), &roots, Some(&stage_b))?,
            text_encoder: TEXT_ENCODER.find(overrides.text_encoder.as_ref(), &roots, Some(&stage_c))?,
            image_encoder: IMAGE_ENCODER.find_optional(overrides.image_encoder.as_ref(), &roots, &stage_c)?,
            effnet_encoder: EFFNET_ENCODER.find_optional(overrides.effnet_encoder.as_ref(), &roots, &stage_c)?,
            tokenizer: tokenizer(overrides.tokenizer.as_ref(), &roots)?,
            index: roots.iter().map(|root| root.join("model_index.json")).find(Location::is_file),
            schedulers: roots
                .iter()
                .map(|root| root.join("scheduler/scheduler_config.json"))
                .filter(Location::is_file)
                .collect(),
            stage_b,
            stage_c,
        })
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

/// The folders to search, in order.
fn roots(model: Option<&Location>, prior: Option<&Location>) -> Result<Vec<Location>> {
    for (given, missing) in [(model, "model folder"), (prior, "folder of the prior")] {
        match given {
            Some(root) if root.is_file() => {
                return Err(Error::Model {
                    path: root.path().to_owned(),
                    expected: format!("a {missing}"),
                    found:
                        "a file; set single files with `stage_a`, `stage_b`, `stage_c`, `text_encoder` and `tokenizer`"
                            .to_owned(),
                });
            }
            Some(root) if !root.is_dir() => {
                return Err(Error::ModelMissing {
                    path: root.path().to_owned(),
                    missing: missing.to_owned(),
                    remedy: "check the path".to_owned(),
                });
            }
            _ => {}
        }
    }
    let sibling = || {
        // A path such as `.` has no file name, so it is resolved first.
        let named = model.filter(|m| m.path().file_name().is_some()).cloned();
        let named = named.or_else(|| Some(model?.path().canonicalize().ok()?.into()))?;
        let mut name = named.path().file_name()?.to_owned();
        name.push("-prior");
        Some(named.with_file_name(name)).filter(Location::is_dir)
    };
    let prior = prior.cloned().or_else(sibling);
    Ok(model.cloned().into_iter().chain(prior).collect())
}

impl Component {
    /// This component as given, in one of `roots`, or inside the file of another component.
    fn find(&self, given: Option<&Location>, roots: &[Location], inside: Option<&PartFiles>) -> Result<PartFiles> {
        if let Some(given) = given {
            if given.is_dir() {
                return in_folder(given, self.stem).ok_or_else(|| self.missing(given, &self.variants("")));
            }
            return Ok(PartFiles { weights: given.clone(), config: beside(given) });
        }
        for folder in self.folders {
            if let Some(found) = roots.iter().find_map(|root| in_folder(&root.join(folder), self.stem)) {
                return Ok(found);
            }
        }
        for name in self.files {
            if let Some(weights) = roots.iter().map(|root| root.join(name)).find(Location::is_file) {
                return Ok(PartFiles { weights, config: None });
            }
        }
        if let Some(other) = inside
            && Checkpoint::open_all(&other.weights)?.iter().any(|network| network.kind() == self.kind)
        {
            return Ok(PartFiles { weights: other.weights.clone(), config: None });
        }
        let Some(root) = roots.first() else {
            return Err(Error::Request {
                what: "model".to_owned(),
                expected: format!("a model folder, or `{}` FILE as well", self.field),
                found: "neither".to_owned(),
            });
        };
        let mut tried: Vec<String> = self.folders.iter().map(|folder| self.variants(&format!("{folder}/"))).collect();
        tried.extend(self.files.iter().map(|name| name.to_string()));
        let tried = tried.join(", ");
        Err(match roots.get(1) {
            Some(prior) => self.missing(root, &format!("{tried}; also in {}", prior.display())),
            None => self.missing(root, &tried),
        })
    }

    /// The same for a component that need not be there, unless it is given.
    fn find_optional(&self, given: Option<&Location>, roots: &[Location], inside: &PartFiles) -> Result<Optional> {
        match self.find(given, roots, Some(inside)) {
            Err(Error::ModelMissing { path, missing, remedy }) if given.is_none() => {
                Ok(Err(Missing { path, missing, remedy }))
            }
            // No folder was given to look in.
            Err(Error::Request { .. }) if roots.is_empty() => Ok(Err(Missing {
                path: inside.weights.path().to_owned(),
                missing: format!("{} in this file", self.what),
                remedy: format!("set their file with `{}`", self.field),
            })),
            found => found.map(Ok),
        }
    }

    fn variants(&self, folder: &str) -> String {
        format!("{folder}{}[.bf16|.fp16].safetensors or its .index.json", self.stem)
    }

    fn missing(&self, root: &Location, tried: &str) -> Error {
        let remedy = match self.kind {
            NetworkKind::StageC => {
                "set the folder that contains prior/ with `prior`, or the file with `stage_c`".into()
            }
            _ => format!("download this component of the model, or set its file with `{}`", self.field),
        };
        Error::ModelMissing { path: root.path().to_owned(), missing: format!("{} ({tried})", self.what), remedy }
    }
}

/// `config.json` in the folder of a weights file.
fn beside(weights: &Location) -> Option<Location> {
    Some(weights.with_file_name("config.json")).filter(Location::is_file)
}

/// The preferred weights file in a folder of the `diffusers` layout.
fn in_folder(folder: &Location, stem: &str) -> Option<PartFiles> {
    // Different versions of the libraries put the variant at different positions of an index's name.
    let names = ["bf16.", "", "fp16."].into_iter().flat_map(|v| {
        [
            format!("{stem}.{v}safetensors"),
            format!("{stem}.safetensors.index.{v}json"),
            format!("{stem}.safetensors.{v}index.json"),
            format!("{stem}.{v}safetensors.index.json"),
        ]
    });
    let weights = names.map(|name| folder.join(name)).find(Location::is_file)?;
    let config = beside(&weights);
    Some(PartFiles { weights, config })
}

/// The tokenizer's folder or file.
fn tokenizer(given: Option<&Location>, roots: &[Location]) -> Result<Location> {
    let usable = |folder: &Location| folder.join("tokenizer.json").is_file() || folder.join("vocab.json").is_file();
    let missing = |place: &Location| Error::ModelMissing {
        path: place.path().to_owned(),
        missing: "tokenizer (tokenizer.json, or vocab.json and merges.txt; in tokenizer/ or the folder itself)"
            .to_owned(),
        remedy: "download this component of the model, or set it with `tokenizer`".to_owned(),
    };
    if let Some(given) = given {
        return if given.is_file() || usable(given) { Ok(given.clone()) } else { Err(missing(given)) };
    }
    let places = roots.iter().map(|root| root.join("tokenizer")).chain(roots.iter().cloned());
    places.into_iter().find(usable).ok_or_else(|| match roots.first() {
        Some(root) => missing(root),
        None => Error::Request {
            what: "model".to_owned(),
            expected: "a model folder, or `tokenizer` FILE as well".to_owned(),
            found: "neither".to_owned(),
        },
    })
}
