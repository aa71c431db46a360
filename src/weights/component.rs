//! Where the weights of one component may be, and the search for them.

use super::checkpoint::Checkpoint;
use super::kind::NetworkKind;
use super::paths::{Missing, Optional, PartFiles};
use super::variant::{self, Variant};
use crate::error::{Error, Result};
use crate::files::{Found, Location};

/// The name of a component, and where it may be in a model folder.
pub(super) struct Component {
    what: &'static str,
    field: &'static str,
    kind: NetworkKind,
    /// Folders in the order of preference.
    folders: &'static [&'static str],
    /// Name of the weights file in these folders, without variant and extension.
    stem: &'static str,
    /// Single files in the order of preference, without variant and extension.
    files: &'static [&'static str],
}

pub(super) const STAGE_A: Component = Component {
    what: "Stage A weights",
    field: "stage_a",
    kind: NetworkKind::StageA,
    folders: &["vqgan"],
    stem: "diffusion_pytorch_model",
    files: &["stage_a"],
};
pub(super) const STAGE_B: Component = Component {
    what: "Stage B weights",
    field: "stage_b",
    kind: NetworkKind::StageB,
    folders: &["decoder", "decoder_lite"],
    stem: "diffusion_pytorch_model",
    files: &["stage_b", "stable_cascade_stage_b", "stage_b_lite"],
};
pub(super) const STAGE_C: Component = Component {
    what: "Stage C weights",
    field: "stage_c",
    kind: NetworkKind::StageC,
    folders: &["prior", "prior_lite"],
    stem: "diffusion_pytorch_model",
    files: &["stage_c", "stable_cascade_stage_c", "stage_c_lite"],
};
pub(super) const TEXT_ENCODER: Component = Component {
    what: "text encoder weights",
    field: "text_encoder",
    kind: NetworkKind::TextEncoder,
    folders: &["text_encoder"],
    stem: "model",
    files: &["text_encoder"],
};

pub(super) const IMAGE_ENCODER: Component = Component {
    what: "image encoder weights",
    field: "image_encoder",
    kind: NetworkKind::VisionEncoder,
    folders: &["image_encoder"],
    stem: "model",
    files: &["image_encoder"],
};

pub(super) const PREVIEWER: Component = Component {
    what: "previewer weights",
    field: "previewer",
    kind: NetworkKind::Previewer,
    folders: &["previewer"],
    stem: "diffusion_pytorch_model",
    files: &["previewer"],
};

/// Variants that files are known to have.
const KNOWN: [&str; 3] = ["bf16", "", "fp16"];

/// A weights file that is there.
struct Candidate {
    weights: Location,
    variant: String,
    in_folder: bool,
    /// Which of the folders that were searched it is in.
    root: usize,
}

/// What a search has found so far.
struct Search<'a> {
    component: &'a Component,
    /// Variants that may be taken, the preferred one first.
    allowed: Vec<&'a str>,
    found: Vec<Candidate>,
    taken: Option<usize>,
}

impl Search<'_> {
    /// Looks for a file. Until one is taken, whatever stands in its place is an error; afterwards it is only not a
    /// file that could have been taken.
    fn look(&mut self, weights: Location, variant: &str, in_folder: bool, root: usize) -> Result<()> {
        let there = match self.taken {
            None => weights.has_file()?,
            Some(_) => weights.has_file().unwrap_or(false),
        };
        if there {
            if self.taken.is_none() && self.allowed.contains(&variant) {
                self.taken = Some(self.found.len());
            }
            self.found.push(Candidate { weights, variant: variant.to_owned(), in_folder, root });
        }
        Ok(())
    }

    /// Looks for the weights in a folder of the `diffusers` layout.
    fn folder(&mut self, folder: &Location, root: usize) -> Result<()> {
        let there = match self.taken {
            None => folder.has_folder()?,
            Some(_) => folder.has_folder().unwrap_or(false),
        };
        if !there {
            return Ok(());
        }
        for variant in self.variants() {
            for name in variant::in_folder(self.component.stem, &variant, self.component.index_first()) {
                self.look(folder.join(name), &variant, true, root)?;
            }
        }
        match self.taken {
            // A folder that holds something, but not the weights, is no reason to take another network's.
            None => match folder.names()? {
                names if names.is_empty() => Ok(()),
                names => Err(Error::Model {
                    path: folder.path().to_owned(),
                    expected: format!("{} ({})", self.component.what, self.component.tried("", &self.allowed)),
                    found: format!("{}; {}", list(&names), self.component.remedy()),
                }),
            },
            Some(_) => Ok(()),
        }
    }

    /// All variants to look for, the preferred ones first.
    fn variants(&self) -> Vec<String> {
        let others = KNOWN.into_iter().filter(|name| !self.allowed.contains(name));
        self.allowed.iter().copied().chain(others).map(str::to_owned).collect()
    }

    /// The file to take, and those in the same model folder that could have been taken.
    fn end(mut self) -> Result<Option<PartFiles>> {
        let Some(taken) = self.taken else { return Ok(None) };
        let taken = self.found.remove(taken);
        let others = self.found.into_iter().filter(|other| other.root == taken.root).map(|other| other.weights);
        Ok(Some(PartFiles {
            config: if taken.in_folder { beside(&taken.weights)? } else { self.component.config_of(&taken.weights)? },
            weights: taken.weights,
            variant: taken.variant,
            others: others.collect(),
        }))
    }
}

impl Component {
    /// This component as given, in one of `roots`, or inside the file of another component.
    ///
    /// # Errors
    /// Those of [`ModelPaths::find`](super::paths::ModelPaths::find).
    pub(super) fn find(
        &self,
        given: Option<&Location>,
        roots: &[Location],
        wanted: &Variant,
        inside: Option<&PartFiles>,
    ) -> Result<PartFiles> {
        let mut search = Search { component: self, allowed: wanted.order(), found: Vec::new(), taken: None };
        if let Some(given) = given {
            if given.look()? != Found::Folder {
                let config = if given.has_file()? { beside(given)? } else { None };
                return Ok(PartFiles { weights: given.clone(), config, variant: String::new(), others: Vec::new() });
            }
            search.folder(given, 0)?;
            let tried = self.tried("", &wanted.order());
            return search.end()?.ok_or_else(|| self.missing(given, &tried));
        }
        for folder in self.folders {
            for (i, root) in roots.iter().enumerate() {
                search.folder(&root.join(folder), i)?;
            }
        }
        for stem in self.files {
            for variant in search.variants() {
                for (i, root) in roots.iter().enumerate() {
                    search.look(root.join(variant::single(stem, &variant)), &variant, false, i)?;
                }
            }
        }
        if let Some(found) = search.end()? {
            return Ok(found);
        }
        if let Some(other) = inside
            && Checkpoint::open_all(&other.weights)?.iter().any(|network| network.kind() == self.kind)
        {
            return Ok(PartFiles { config: self.config_of(&other.weights)?, ..other.clone() });
        }
        let Some(root) = roots.first() else {
            return Err(Error::Request {
                what: "model".to_owned(),
                expected: format!("a model folder, or `{}` FILE as well", self.field),
                found: "neither".to_owned(),
            });
        };
        let order = wanted.order();
        let mut tried: Vec<String> =
            self.folders.iter().map(|folder| self.tried(&format!("{folder}/"), &order)).collect();
        tried.extend(self.files.iter().flat_map(|stem| order.iter().map(|variant| variant::single(stem, variant))));
        let tried = tried.join(", ");
        Err(match roots.get(1) {
            Some(prior) => self.missing(root, &format!("{tried}; also in {}", prior.display())),
            None => self.missing(root, &tried),
        })
    }

    /// The same for a component that need not be there, unless it is given.
    pub(super) fn find_optional(
        &self,
        given: Option<&Location>,
        roots: &[Location],
        wanted: &Variant,
        inside: &PartFiles,
    ) -> Result<Optional> {
        match self.find(given, roots, wanted, Some(inside)) {
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

    /// The configuration of a single file, which only networks of unusual sizes have.
    fn config_of(&self, weights: &Location) -> Result<Option<Location>> {
        let config = weights.with_file_name(format!("{}.json", self.files[0]));
        Ok(config.has_file()?.then_some(config))
    }

    /// diffusers prefers several files to one, transformers one to several.
    fn index_first(&self) -> bool {
        self.kind != NetworkKind::TextEncoder
    }

    /// The names that were looked for in a folder.
    fn tried(&self, folder: &str, variants: &[&str]) -> String {
        let dots: Vec<String> = variants.iter().filter(|v| !v.is_empty()).map(|v| format!(".{v}")).collect();
        let dots = if dots.is_empty() { String::new() } else { format!("[{}]", dots.join("|")) };
        format!("{folder}{}{dots}.safetensors or its .index.json", self.stem)
    }

    fn missing(&self, root: &Location, tried: &str) -> Error {
        Error::ModelMissing {
            path: root.path().to_owned(),
            missing: format!("{} ({tried})", self.what),
            remedy: self.remedy(),
        }
    }

    fn remedy(&self) -> String {
        match self.kind {
            NetworkKind::StageC => {
                "set the folder that contains prior/ with `prior`, or the file with `stage_c`".to_owned()
            }
            NetworkKind::Previewer => "download this component of the model, or do without previews".to_owned(),
            _ => format!("download this component of the model, or set its file with `{}`", self.field),
        }
    }
}

/// The first of these names, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let first = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{first} and {} more", names.len() - SHOWN) } else { first }
}

/// `config.json` in the folder of a weights file.
fn beside(weights: &Location) -> Result<Option<Location>> {
    let config = weights.with_file_name("config.json");
    Ok(config.has_file()?.then_some(config))
}
