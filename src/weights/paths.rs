//! Where the parts of a model lie on disk.
//!
//! | Part | Folder layout (`diffusers`) | Single files (original, ComfyUI) |
//! |---|---|---|
//! | Stage A | `vqgan/` | `stage_a`, or inside the Stage B file (`vae.`) |
//! | Stage B | `decoder/`, else `decoder_lite/` | `stage_b[_lite][_bf16]`, `stable_cascade_stage_b` |
//! | Stage C | `prior/`, else `prior_lite/` | `stage_c[_lite][_bf16]`, `stable_cascade_stage_c` |
//! | text encoder | `text_encoder/` | `text_encoder`, or inside the Stage C file |
//! | tokenizer | `tokenizer/` | `tokenizer.json` |
//!
//! The model folder is searched first, then the prior's: the one given, or the
//! sibling `<name>-prior`. The small networks (`*_lite`) are taken only where
//! the large ones are absent. Of several variants of a file, bf16 is taken
//! before the plain one (f32, twice the size) before fp16. Names only say where
//! to look; what a file is, its tensors say.

use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::kind::NetworkKind;
use crate::error::{Error, Result};

/// Weights of one part and, in the folder layout, its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFiles {
    /// A safetensors file, or the index of a sharded one.
    pub weights: PathBuf,
    /// `config.json` beside it; without one, sizes come from the tensors.
    pub config: Option<PathBuf>,
}

/// Where each part of a model lies.
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
    /// A folder with `tokenizer.json` (or `vocab.json` and `merges.txt`), or
    /// such a `tokenizer.json`.
    pub tokenizer: PathBuf,
}

/// Parts given one by one instead of by a folder: a file, or a folder in the
/// layout of the part's own.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--stage-a`
    pub stage_a: Option<PathBuf>,
    /// `--stage-b`
    pub stage_b: Option<PathBuf>,
    /// `--stage-c`
    pub stage_c: Option<PathBuf>,
    /// `--text-encoder`
    pub text_encoder: Option<PathBuf>,
    /// `--tokenizer`
    pub tokenizer: Option<PathBuf>,
}

/// How a part is called and where it may lie in a model folder.
struct Part {
    what: &'static str,
    flag: &'static str,
    kind: NetworkKind,
    /// Folders, the preferred one first.
    folders: &'static [&'static str],
    /// Name of the weights in them, without variant and ending.
    stem: &'static str,
    /// Single files, the preferred one first.
    files: &'static [&'static str],
}

const STAGE_A: Part = Part {
    what: "Stage A weights",
    flag: "--stage-a",
    kind: NetworkKind::StageA,
    folders: &["vqgan"],
    stem: "diffusion_pytorch_model",
    files: &["stage_a.safetensors"],
};
const STAGE_B: Part = Part {
    what: "Stage B weights",
    flag: "--stage-b",
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
const STAGE_C: Part = Part {
    what: "Stage C weights",
    flag: "--stage-c",
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
const TEXT_ENCODER: Part = Part {
    what: "text encoder weights",
    flag: "--text-encoder",
    kind: NetworkKind::TextEncoder,
    folders: &["text_encoder"],
    stem: "model",
    files: &["text_encoder.safetensors"],
};

impl ModelPaths {
    /// Finds every part: the overrides, then the folders `model` and `prior`.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] names the part that is missing, the places that
    /// were looked at and the flag that gives it; [`Error::Request`] if no
    /// folder was given and the overrides do not cover every part.
    pub fn find(model: Option<&Path>, prior: Option<&Path>, overrides: &Overrides) -> Result<Self> {
        let roots = roots(model, prior)?;
        let stage_c = STAGE_C.find(overrides.stage_c.as_deref(), &roots, None)?;
        let stage_b = STAGE_B.find(overrides.stage_b.as_deref(), &roots, None)?;
        Ok(Self {
            stage_a: STAGE_A.find(overrides.stage_a.as_deref(), &roots, Some(&stage_b))?,
            text_encoder: TEXT_ENCODER.find(overrides.text_encoder.as_deref(), &roots, Some(&stage_c))?,
            tokenizer: tokenizer(overrides.tokenizer.as_deref(), &roots)?,
            stage_b,
            stage_c,
        })
    }
}

/// The folders to search, in order.
fn roots(model: Option<&Path>, prior: Option<&Path>) -> Result<Vec<PathBuf>> {
    for (given, missing) in [(model, "model folder"), (prior, "folder of the prior")] {
        match given {
            Some(path) if path.is_file() => {
                return Err(Error::Model {
                    path: path.to_owned(),
                    expected: format!("a {missing}"),
                    found:
                        "a file; give single files by --stage-a, --stage-b, --stage-c, --text-encoder and --tokenizer"
                            .to_owned(),
                });
            }
            Some(path) if !path.exists() => {
                return Err(Error::ModelMissing {
                    path: path.to_owned(),
                    missing: missing.to_owned(),
                    remedy: "check the path".to_owned(),
                });
            }
            _ => {}
        }
    }
    let sibling = || {
        // `.` has no name of its own.
        let named =
            model.map(|m| if m.file_name().is_some() { m.to_owned() } else { m.canonicalize().unwrap_or_default() })?;
        let mut name = named.file_name()?.to_owned();
        name.push("-prior");
        Some(named.with_file_name(name)).filter(|path| path.is_dir())
    };
    let prior = prior.map(Path::to_owned).or_else(sibling);
    Ok(model.map(Path::to_owned).into_iter().chain(prior).collect())
}

impl Part {
    /// This part as given, in one of `roots`, or inside the file of another part.
    fn find(&self, given: Option<&Path>, roots: &[PathBuf], inside: Option<&PartFiles>) -> Result<PartFiles> {
        if let Some(path) = given {
            if path.is_dir() {
                return in_folder(path, self.stem).ok_or_else(|| self.missing(path, &self.variants("")));
            }
            return Ok(PartFiles { weights: path.to_owned(), config: beside(path) });
        }
        for folder in self.folders {
            if let Some(found) = roots.iter().find_map(|root| in_folder(&root.join(folder), self.stem)) {
                return Ok(found);
            }
        }
        for name in self.files {
            if let Some(weights) = roots.iter().map(|root| root.join(name)).find(|file| file.is_file()) {
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
                what: "--model".to_owned(),
                expected: format!("a model folder, or {} FILE as well", self.flag),
                found: "neither".to_owned(),
            });
        };
        let mut looked: Vec<String> = self.folders.iter().map(|folder| self.variants(&format!("{folder}/"))).collect();
        looked.extend(self.files.iter().map(|name| name.to_string()));
        let looked = looked.join(", ");
        Err(match roots.get(1) {
            Some(prior) => self.missing(root, &format!("{looked}; also in {}", prior.display())),
            None => self.missing(root, &looked),
        })
    }

    fn variants(&self, folder: &str) -> String {
        format!("{folder}{}[.bf16|.fp16].safetensors or its .index.json", self.stem)
    }

    fn missing(&self, root: &Path, looked: &str) -> Error {
        let remedy = match self.kind {
            NetworkKind::StageC => "give the folder that holds prior/ by --prior, or the file by --stage-c".to_owned(),
            _ => format!("download this part of the model, or give its file by {}", self.flag),
        };
        Error::ModelMissing { path: root.to_owned(), missing: format!("{} ({looked})", self.what), remedy }
    }
}

/// `config.json` in the folder of a weights file.
fn beside(weights: &Path) -> Option<PathBuf> {
    Some(weights.with_file_name("config.json")).filter(|config| config.is_file())
}

/// The preferred weights in a folder of the `diffusers` layout.
fn in_folder(folder: &Path, stem: &str) -> Option<PartFiles> {
    // Libraries have put the variant at three places of an index's name.
    let names = ["bf16.", "", "fp16."].into_iter().flat_map(|v| {
        [
            format!("{stem}.{v}safetensors"),
            format!("{stem}.safetensors.index.{v}json"),
            format!("{stem}.safetensors.{v}index.json"),
            format!("{stem}.{v}safetensors.index.json"),
        ]
    });
    let weights = names.map(|name| folder.join(name)).find(|file| file.is_file())?;
    let config = beside(&weights);
    Some(PartFiles { weights, config })
}

/// The tokenizer's folder, or its file.
fn tokenizer(given: Option<&Path>, roots: &[PathBuf]) -> Result<PathBuf> {
    let usable = |folder: &PathBuf| folder.join("tokenizer.json").is_file() || folder.join("vocab.json").is_file();
    let missing = |path: &Path| Error::ModelMissing {
        path: path.to_owned(),
        missing: "tokenizer (tokenizer.json, or vocab.json and merges.txt; in tokenizer/ or the folder itself)"
            .to_owned(),
        remedy: "download this part of the model, or give it by --tokenizer".to_owned(),
    };
    if let Some(path) = given {
        let path = path.to_owned();
        return if path.is_file() || usable(&path) { Ok(path) } else { Err(missing(&path)) };
    }
    let places = roots.iter().map(|root| root.join("tokenizer")).chain(roots.iter().cloned());
    places.into_iter().find(usable).ok_or_else(|| match roots.first() {
        Some(root) => missing(root),
        None => Error::Request {
            what: "--model".to_owned(),
            expected: "a model folder, or --tokenizer FILE as well".to_owned(),
            found: "neither".to_owned(),
        },
    })
}
