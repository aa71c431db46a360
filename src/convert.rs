//! Writes the networks of a model anew: in another layout, in another element type, with int8 weights, mixed with those of
//! another model, or with adapters merged into them.
//!
//! ```text
//! model folder, or one file ─▶ Networks ─▶ mix, adapt ─▶ files ─▶ File::write
//! ```
//!
//! Tensors are read, changed and written one at a time. A tensor that only changes its element type goes through in pieces; one
//! that an adapter changes, or that becomes int8, is held as a whole. Memory is therefore bounded by the largest such tensor.

mod values;

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Serialize;
use serde_json::json;

use crate::adapters::{Adapter, Applied, adapt};
use crate::error::{Error, Result};
use crate::files::Location;
use crate::model::Model;
use crate::net::config::{ClipTextConfig, ClipVisionConfig, StageAConfig, UNetConfig, to_json};
use crate::weights::file::FACTORS;
use crate::weights::{Checkpoint, Layout, ModelPaths, Narrow, NetworkKind};

/// A network that is to be written.
struct Network {
    weights: Checkpoint,
    /// Its `config.json`; absent where only a file of weights is written.
    config: Option<Text>,
    /// Whether the tensors alone show all sizes.
    shows_sizes: bool,
    /// What it is mixed with, and that network's share, 0 to 1.
    other: Option<(Checkpoint, f32)>,
}

/// Networks that are to be written, at most one of a kind.
pub struct Networks {
    all: Vec<Network>,
    /// Further files of a model folder: their paths in it, and what is in them.
    texts: Vec<(PathBuf, Text)>,
    /// Whether weights become int8, and texts that say which do not; see [`Narrow`].
    int8: Option<Vec<String>>,
    /// What of the files that were opened is not written, for messages.
    pub left_out: Vec<String>,
}

/// The contents of a small file.
#[derive(Clone)]
enum Text {
    /// Those of another.
    Of(Location),
    New(Vec<u8>),
}

/// What a file is to hold.
enum Contents {
    Text(Text),
    Tensors(Vec<Tensor>),
}

/// A tensor that is to be written.
struct Tensor {
    name: String,
    dtype: Dtype,
    dims: Vec<usize>,
    /// Which network it is of.
    network: usize,
    /// The tensors that it consists of, one above the other.
    parts: Vec<String>,
    /// Whether it has the factors of their rows, rather than their elements.
    is_factors: bool,
}

/// A file that is to be written.
pub struct File {
    /// Relative to the folder of the model.
    pub path: PathBuf,
    contents: Contents,
}

impl Networks {
    /// A whole model.
    ///
    /// # Errors
    /// Those of [`Model::open`].
    pub fn of_model(paths: &ModelPaths) -> Result<Self> {
        let model = Model::open(paths)?;
        // Networks that text to image does without are opened when they are asked for.
        for found in [model.vision().map(drop), model.effnet().map(drop), model.previewer().map(drop)] {
            match found {
                Err(Error::ModelMissing { .. }) => {}
                found => found?,
            }
        }
        let Model {
            stage_a: (a, a_sizes),
            stage_b: (b, b_sizes),
            stage_c: (c, c_sizes),
            text: (t, t_sizes),
            vision,
            effnet,
            previewer,
            ..
        } = model;
        let unet = |sizes: &UNetConfig, weights: &Checkpoint| {
            let heads =
                (0..sizes.levels()).map(|i| if sizes.has_attention(i) { sizes.num_attention_heads[i] } else { 0 });
            let wanted = UNetConfig { num_attention_heads: heads.collect(), ..sizes.clone() };
            UNetConfig::read_or_infer(None, weights).is_ok_and(|(shown, _)| shown == wanted)
        };
        let is_shown = [unet(&c_sizes, &c), unet(&b_sizes, &b)];
        let a_shown = StageAConfig::read_or_infer(None, &a)
            .is_ok_and(|(shown, _)| StageAConfig { scale_factor: StageAConfig::ORIGINAL_SCALE, ..shown } == a_sizes);
        let t_shown = ClipTextConfig::read_or_infer(None, &t).is_ok_and(|(shown, _)| shown == t_sizes);
        let mut all = vec![
            network(c, &c_sizes, paths.stage_c.config.as_ref(), is_shown[0]),
            network(b, &b_sizes, paths.stage_b.config.as_ref(), is_shown[1]),
            network(a, &a_sizes, paths.stage_a.config.as_ref(), a_shown),
            network(t, &t_sizes, paths.text_encoder.config.as_ref(), t_shown),
        ];
        if let Some((v, v_sizes)) = vision.into_opened() {
            let files = paths.image_encoder.find()?;
            let v_shown = ClipVisionConfig::read_or_infer(None, &v).is_ok_and(|(shown, _)| shown == v_sizes);
            all.push(network(v, &v_sizes, files.config.as_ref(), v_shown));
        }
        let [previewer, effnet] =
            [previewer.into_opened().map(|(weights, _)| weights), effnet.into_opened().map(|(weights, _)| weights)];
        let bare = previewer.into_iter().chain(effnet);
        all.extend(bare.map(|weights| Network { weights, config: None, shows_sizes: true, other: None }));
        let scheduler = paths.schedulers.first().map(|file| ("scheduler/scheduler_config.json", file));
        let index = paths.index.as_ref().map(|file| ("model_index.json", file));
        let copy = |(name, file): (&str, &Location)| (PathBuf::from(name), Text::Of(file.clone()));
        let mut texts: Vec<_> = scheduler.into_iter().chain(index).map(copy).collect();
        let tokenizer = paths.tokenizer_files()?.into_iter();
        texts.extend(tokenizer.map(|(name, file)| (Path::new("tokenizer").join(name), Text::Of(file))));
        Ok(Self { all, texts, int8: None, left_out: Vec::new() })
    }

    /// Every network in one file.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open_all`], and [`Error::Model`] if it holds none that is part of a model.
    pub fn of_file(file: &Location) -> Result<Self> {
        let mut all: Vec<Network> = Vec::new();
        let mut left_out = Vec::new();
        for weights in Checkpoint::open_all(file)? {
            let kind = weights.kind();
            if Layout::Diffusers.place(kind).is_none() || all.iter().any(|known| known.weights.kind() == kind) {
                let first = weights.names().next().and_then(|name| weights.stored(name));
                left_out.push(format!("{kind} (with `{}`)", first.map_or("", |stored| stored.name.as_str())));
                continue;
            }
            all.push(Network { weights, config: None, shows_sizes: true, other: None });
        }
        match all.is_empty() {
            false => Ok(Self { all, texts: Vec::new(), int8: None, left_out }),
            true => Err(Error::Model {
                path: file.path().to_owned(),
                expected: "networks of a Stable Cascade".into(),
                found: if left_out.is_empty() { "no tensors".into() } else { left_out.join(" and ") },
            }),
        }
    }

    /// The files that they and what is beside them are read from.
    pub fn reads(&self) -> Vec<PathBuf> {
        let networks = self.all.iter();
        let weights = networks.clone().flat_map(|network| network.weights.files()).map(Path::to_owned);
        let configs = networks.filter_map(|network| network.config.as_ref());
        let of = |text: &Text| match text {
            Text::Of(file) => Some(file.path().to_owned()),
            Text::New(_) => None,
        };
        weights.chain(configs.chain(self.texts.iter().map(|(_, text)| text)).filter_map(of)).collect()
    }

    /// The layout that the first of them has.
    pub fn layout(&self) -> Layout {
        self.all.first().map_or(Layout::Diffusers, |network| Layout::of(&network.weights))
    }

    /// Mixes them with the networks of `others`: of every tensor, `1 − ratio` of its own and `ratio` of the other's.
    /// Networks that `others` lacks stay as they are; returns those.
    ///
    /// # Errors
    /// [`Error::Model`] if there is no network in common, [`Error::Tensor`] if one has tensors that the other lacks, or
    /// other dimensions.
    pub fn mix(&mut self, others: Networks, ratio: f32) -> Result<Vec<NetworkKind>> {
        let mut kept = Vec::new();
        let mut rest: Vec<Checkpoint> = others.all.into_iter().map(|other| other.weights).collect();
        let path = rest.first().map(|other| other.path.clone()).unwrap_or_default();
        for network in &mut self.all {
            let mine = &network.weights;
            let Some(at) = rest.iter().position(|other| other.kind() == mine.kind()) else {
                kept.push(mine.kind());
                continue;
            };
            let other = rest.swap_remove(at);
            same_tensors(mine, &other)?;
            same_tensors(&other, mine)?;
            network.other = Some((other, ratio));
        }
        match kept.len() < self.all.len() {
            true => Ok(kept),
            false => Err(Error::Model {
                path,
                expected: "a network of the same kind as in the other model".into(),
                found: rest.iter().map(|other| other.kind().to_string()).collect::<Vec<_>>().join(" and "),
            }),
        }
    }

    /// Merges adapters into them; see [`Model::adapt`].
    ///
    /// # Errors
    /// Those of [`Model::adapt`].
    pub fn adapt(&mut self, adapters: &[(&Adapter, f32)]) -> Result<Vec<Applied>> {
        let mut networks: Vec<&mut Checkpoint> = self.all.iter_mut().map(|network| &mut network.weights).collect();
        adapt(&mut networks, adapters)
    }

    /// Makes weights int8, but for those that `keep` says; see [`Narrow`].
    ///
    /// # Errors
    /// [`Error::Model`] if some are already.
    pub fn quantise(&mut self, keep: Vec<String>) -> Result<()> {
        if let Some(network) = self.all.iter().find(|network| network.weights.is_int8()) {
            return Err(Error::Model {
                path: network.weights.path.clone(),
                expected: "a network without int8 weights".into(),
                found: "one that has some; quantize the model that it was made from".into(),
            });
        }
        self.int8 = Some(keep);
        Ok(())
    }

    /// The files of a folder of this layout, where tensors of floats are of type `dtype`, or of their own.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a network lacks a part of a tensor.
    pub fn files(&self, layout: Layout, dtype: Option<Dtype>) -> Result<Vec<File>> {
        let mut files: Vec<File> = Vec::new();
        for (i, network) in self.all.iter().enumerate() {
            let Some(place) = layout.place(network.weights.kind()) else { continue };
            let tensors = self.tensors(i, layout, place.prefix, dtype)?;
            match files.iter_mut().find(|file| file.path == Path::new(place.file)) {
                Some(File { contents: Contents::Tensors(all), .. }) => all.extend(tensors),
                _ => files.push(File { path: place.file.into(), contents: Contents::Tensors(tensors) }),
            }
            let config = network.config.as_ref().filter(|_| layout == Layout::Diffusers || !network.shows_sizes);
            files.extend(config.map(|text| File { path: place.config.into(), contents: Contents::Text(text.clone()) }));
        }
        files.iter_mut().for_each(|file| file.contents.sort());
        let text = |(path, text): &(PathBuf, Text)| File { path: path.clone(), contents: Contents::Text(text.clone()) };
        files.extend(self.texts.iter().map(text));
        for (path, text) in [("scheduler/scheduler_config.json", scheduler()), ("model_index.json", index())] {
            if layout == Layout::Diffusers && !files.iter().any(|file| file.path == Path::new(path)) {
                let text = Text::New(format!("{text:#}\n").into_bytes());
                files.push(File { path: path.into(), contents: Contents::Text(text) });
            }
        }
        Ok(files)
    }

    /// One file of all of them, whose path is empty.
    ///
    /// # Errors
    /// Those of [`files`](Self::files), and [`Error::Request`] if the layout has no file for these networks together.
    pub fn file(&self, layout: Layout, dtype: Option<Dtype>) -> Result<File> {
        if layout != Layout::Comfyui && self.all.len() > 1 {
            return Err(Error::Request {
                what: "layout".into(),
                expected: "comfyui for several networks in one file".into(),
                found: "one that has a file for each".into(),
            });
        }
        let mut all = Vec::new();
        for (i, network) in self.all.iter().enumerate() {
            let prefix = layout.place(network.weights.kind()).map_or("", |place| place.prefix);
            all.extend(self.tensors(i, layout, prefix, dtype)?);
        }
        let mut contents = Contents::Tensors(all);
        contents.sort();
        Ok(File { path: PathBuf::new(), contents })
    }

    /// The tensors of one network.
    fn tensors(&self, network: usize, layout: Layout, prefix: &str, dtype: Option<Dtype>) -> Result<Vec<Tensor>> {
        let weights = &self.all[network].weights;
        let narrow = self.int8.as_ref().and_then(|keep| Narrow::of(weights.kind(), weights.names(), keep));
        let becomes_int8 = |part: &str| {
            let is_matrix = weights.dims(part).is_some_and(|dims| dims.len() >= 2);
            is_matrix && narrow.as_ref().is_some_and(|narrow| narrow.takes(part))
        };
        let tensor = |(name, parts): (String, Vec<String>)| {
            let mut whole: Option<(Dtype, Vec<usize>)> = None;
            for part in &parts {
                let dtype = if becomes_int8(part) { Some(Dtype::I8) } else { dtype };
                let (own, dims) = values::stored_as(weights, part, dtype)?;
                whole = Some(match whole {
                    None => (own, dims),
                    Some((before, mut above)) if above.get(1..) == dims.get(1..) => {
                        above[0] += dims[0];
                        // Parts of different types are stacked in the one that holds both.
                        (if own == before { own } else { Dtype::F32 }, above)
                    }
                    Some((_, above)) => {
                        return Err(values::wrong(weights, part, format!("{above:?}"), format!("{dims:?}")));
                    }
                });
            }
            let (dtype, dims) = whole.unwrap_or((Dtype::F32, vec![0]));
            let name = format!("{prefix}{name}");
            let is_int8 = dtype == Dtype::I8 && parts.iter().all(|part| values::has_factors(weights, part, dtype));
            let factors = is_int8.then(|| Tensor {
                name: format!("{name}{FACTORS}"),
                dtype: Dtype::F32,
                dims: dims.iter().take(1).copied().collect(),
                network,
                parts: parts.clone(),
                is_factors: true,
            });
            Ok([Some(Tensor { name, dtype, dims, network, parts, is_factors: false }), factors])
        };
        let all: Vec<[Option<Tensor>; 2]> = layout.tensors(weights).into_iter().map(tensor).collect::<Result<_>>()?;
        Ok(all.into_iter().flatten().flatten().collect())
    }
}

impl Contents {
    /// Brings tensors into the order in which the safetensors library writes them.
    fn sort(&mut self) {
        if let Self::Tensors(all) = self {
            all.sort_by(|a, b| b.dtype.cmp(&a.dtype).then(a.name.cmp(&b.name)));
        }
    }
}

/// A network of a model folder.
fn network(weights: Checkpoint, sizes: &impl Serialize, config: Option<&Location>, shows_sizes: bool) -> Network {
    let written = || Text::New(format!("{:#}\n", to_json(weights.kind(), sizes)).into_bytes());
    let config = Some(config.map_or_else(written, |file| Text::Of(file.clone())));
    Network { weights, config, shows_sizes, other: None }
}

/// Every tensor of `a` is in `b`, with the same dimensions.
fn same_tensors(a: &Checkpoint, b: &Checkpoint) -> Result<()> {
    for name in a.names() {
        let (here, there) = (a.dims(name).unwrap_or_default(), b.dims(name));
        let is_counter = a.stored(name).is_some_and(|stored| stored.float().is_none());
        if there != Some(here) && !is_counter {
            let expected = format!("{here:?}, as in {}", a.path.display());
            return Err(values::wrong(b, name, expected, there.map_or("nothing".into(), |dims| format!("{dims:?}"))));
        }
    }
    Ok(())
}

/// `scheduler_config.json` of the published models.
fn scheduler() -> serde_json::Value {
    json!({"_class_name": "DDPMWuerstchenScheduler", "_diffusers_version": "0.29.0", "s": 0.008, "scaler": 1.0})
}

/// `model_index.json` of the published decoder, with the prior beside it.
fn index() -> serde_json::Value {
    json!({
        "_class_name": "StableCascadeDecoderPipeline",
        "_diffusers_version": "0.29.0",
        "decoder": ["diffusers", "StableCascadeUNet"],
        "latent_dim_scale": 10.67,
        "prior": ["diffusers", "StableCascadeUNet"],
        "scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizerFast"],
        "vqgan": ["diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model", "PaellaVQModel"],
    })
}
