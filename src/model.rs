//! A whole model: every part opened, its sizes known, and the parts checked
//! against each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::Location;
use crate::net::config::{ClipTextConfig, ClipVisionConfig, PreviewerConfig, StageAConfig, UNetConfig};
use crate::sampler;
use crate::weights::{Checkpoint, Missing, ModelPaths, NetworkKind, Overrides, PartFiles, Source};

/// The parts of Stable Cascade.
#[derive(Debug)]
pub struct Model {
    /// Latent to picture.
    pub stage_a: (Checkpoint, StageAConfig),
    /// Stage C latent to Stage A latent.
    pub stage_b: (Checkpoint, UNetConfig),
    /// Text to Stage C latent.
    pub stage_c: (Checkpoint, UNetConfig),
    /// Tokens to text states.
    pub text: (Checkpoint, ClipTextConfig),
    /// Pictures to embeddings, for image prompts; or what to say where the model lacks it.
    pub vision: std::result::Result<(Checkpoint, ClipVisionConfig), Missing>,
    /// Stage C latents to small pictures; or what to say where the model lacks it.
    pub previewer: std::result::Result<(Checkpoint, PreviewerConfig), Missing>,
    /// The tokenizer's folder or file.
    pub tokenizer: Location,
    /// Side of the pictures that it was made for, pixels, if it says so.
    pub native_size: Option<u32>,
    /// Which files the networks come from, and what could have been taken instead. Empty for a model in memory.
    pub sources: Vec<Source>,
    /// Files besides the weights that it is read from.
    pub texts: Vec<PathBuf>,
}

impl Model {
    /// Opens a model folder, as diffusers has it or with the original single files.
    ///
    /// # Errors
    /// Those of [`ModelPaths::find`] and [`open`](Self::open).
    ///
    /// ```no_run
    /// let model = cascade_rt::Model::open_folder("stable-cascade")?;
    /// # Ok::<(), cascade_rt::Error>(())
    /// ```
    pub fn open_folder(folder: impl Into<Location>) -> Result<Self> {
        Self::open(&ModelPaths::find(Some(&folder.into()), None, &Overrides::default())?)
    }

    /// Opens every part. Reads headers and configs only; weights are read when
    /// they are used.
    ///
    /// # Errors
    /// If a file is damaged or holds another network than its place says, if a
    /// config and its tensors disagree, or if two parts do not fit together.
    pub fn open(paths: &ModelPaths) -> Result<Self> {
        let unet = |part: &PartFiles, kind| {
            let weights = Checkpoint::open_as(&part.weights, kind)?;
            let config = UNetConfig::open(part.config.as_ref(), &weights)?;
            Ok((weights, config))
        };
        let stage_c = unet(&paths.stage_c, NetworkKind::StageC)?;
        let stage_b = unet(&paths.stage_b, NetworkKind::StageB)?;

        let weights = Checkpoint::open_as(&paths.stage_a.weights, NetworkKind::StageA)?;
        let config = StageAConfig::open(paths.stage_a.config.as_ref(), &weights)?;
        let stage_a = (weights, config);

        let weights = Checkpoint::open_as(&paths.text_encoder.weights, NetworkKind::TextEncoder)?;
        let config = ClipTextConfig::open(paths.text_encoder.config.as_ref(), &weights)?;
        let text = (weights, config);

        let vision = |part: &PartFiles| {
            let weights = Checkpoint::open_as(&part.weights, NetworkKind::VisionEncoder)?;
            let config = ClipVisionConfig::open(part.config.as_ref(), &weights)?;
            Ok((weights, config))
        };
        let vision = match &paths.image_encoder {
            Ok(part) => Ok(vision(part)?),
            Err(missing) => Err(missing.clone()),
        };

        let previewer = |part: &PartFiles| {
            let weights = Checkpoint::open_as(&part.weights, NetworkKind::Previewer)?;
            let config = PreviewerConfig::open(&weights)?;
            Ok((weights, config))
        };
        let previewer = match &paths.previewer {
            Ok(part) => Ok(previewer(part)?),
            Err(missing) => Err(missing.clone()),
        };

        paths.schedulers.iter().try_for_each(check_scheduler)?;
        let native_size = paths.native_size()?;
        let tokenizer = paths.tokenizer.clone();
        let (sources, texts) = (paths.sources(), paths.texts());
        let model = Self { stage_a, stage_b, stage_c, text, vision, previewer, tokenizer, native_size, sources, texts };
        model.check_fit()?;
        Ok(model)
    }

    /// The vision tower.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] says where it was looked for.
    pub fn vision(&self) -> Result<&(Checkpoint, ClipVisionConfig)> {
        self.vision.as_ref().map_err(Missing::error)
    }

    /// Makes weights int8 that are not, as [the table](crate::weights::is_narrow) says: each when it is first used, in memory of
    /// its own. A model that has some already stays as it is.
    pub fn quantise(&mut self) {
        if self.is_int8() {
            return;
        }
        let vision = self.vision.iter_mut().map(|(weights, _)| weights);
        let weights = [&mut self.stage_a.0, &mut self.stage_b.0, &mut self.stage_c.0, &mut self.text.0];
        weights.into_iter().chain(vision).for_each(Checkpoint::quantise);
    }

    /// Whether some of its weights are int8.
    pub fn is_int8(&self) -> bool {
        [&self.stage_a.0, &self.stage_b.0, &self.stage_c.0, &self.text.0].into_iter().any(Checkpoint::is_int8)
    }

    /// The previewer.
    ///
    /// # Errors
    /// As [`vision`](Self::vision).
    pub fn previewer(&self) -> Result<&(Checkpoint, PreviewerConfig)> {
        self.previewer.as_ref().map_err(Missing::error)
    }

    /// Every file that it may be read from: weights, configs, the tokenizer's. Some need not exist.
    pub fn files(&self) -> BTreeSet<&Path> {
        let previewer = self.previewer.iter().map(|(weights, _)| weights);
        let optional = self.vision.iter().map(|(weights, _)| weights).chain(previewer);
        let weights = [&self.stage_a.0, &self.stage_b.0, &self.stage_c.0, &self.text.0].into_iter().chain(optional);
        weights.flat_map(Checkpoint::files).chain(self.texts.iter().map(PathBuf::as_path)).collect()
    }

    /// A line for each network of which there were several files: which one was taken, and instead of what.
    pub fn choices(&self) -> Vec<String> {
        let names = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        let line = |source: &Source| format!("{} rather than {}", source.file.display(), names(&source.instead_of));
        self.sources.iter().filter(|source| !source.instead_of.is_empty()).map(line).collect()
    }

    /// Widths at which one part meets another.
    fn check_fit(&self) -> Result<()> {
        let Self { stage_a: (_, a), stage_b: (b_file, b), stage_c: (c_file, c), text: (text_file, text), .. } = self;
        let Checkpoint { path: b_path, .. } = b_file;
        // A Stage C that takes no images is no reason to refuse the model: no image prompt reaches it.
        let vision = self.vision.as_ref().ok().zip(c.clip_image_in_channels);
        let vision = vision.map(|((from, vision), takes)| {
            (&c_file.path, "image embeddings", Some(takes), &from.path, vision.projection_dim)
        });
        let pictures = self
            .vision
            .as_ref()
            .ok()
            .map(|(from, vision)| (&from.path, "pictures", Some(vision.num_channels), &from.path, 3));
        let previewer = self.previewer.as_ref().ok().map(|(from, previewer)| {
            (&from.path, "latents", Some(previewer.latent_channels()), &c_file.path, c.out_channels)
        });
        let parts = [
            (&c_file.path, "text states", c.clip_text_in_channels, &text_file.path, text.hidden_size),
            (&c_file.path, "pooled text", Some(c.clip_text_pooled_in_channels), &text_file.path, text.projection_dim),
            (&c_file.path, "latents", Some(c.in_channels), &c_file.path, c.out_channels),
            (b_path, "pooled text", Some(b.clip_text_pooled_in_channels), &text_file.path, text.projection_dim),
            (b_path, "Stage C latents", b.effnet_in_channels, &c_file.path, c.out_channels),
            (b_path, "latents", Some(b.in_channels), b_path, b.out_channels),
            (&self.stage_a.0.path, "latents", Some(a.latent_channels), b_path, b.out_channels),
        ];
        for (path, what, takes, from, gives) in parts.into_iter().chain(vision).chain(pictures).chain(previewer) {
            if takes != Some(gives) {
                let takes = takes.map_or("none".to_owned(), |n| n.to_string());
                return Err(Error::Model {
                    path: path.clone(),
                    expected: format!(
                        "a network that takes {what} of {gives} channels, as {} makes them",
                        from.display()
                    ),
                    found: format!("one that takes {takes}; use parts of one model"),
                });
            }
        }
        Ok(())
    }
}

/// The scheduler of a model is the one that there is: the published pipelines', with their `s` and `scaler`.
fn check_scheduler(location: &Location) -> Result<()> {
    const CLASS: &str = "DDPMWuerstchenScheduler";
    #[derive(Deserialize)]
    struct Scheduler {
        #[serde(rename = "_class_name")]
        class: Option<String>,
        s: Option<f64>,
        scaler: Option<f64>,
    }
    let Scheduler { class, s, scaler } = location.read_json()?;
    let class = class.as_deref().unwrap_or(CLASS);
    let (s, scaler) = (s.unwrap_or(sampler::S), scaler.unwrap_or(1.0));
    if (class, s, scaler) == (CLASS, sampler::S, 1.0) {
        return Ok(());
    }
    Err(Error::Model {
        path: location.path().to_owned(),
        expected: format!("{CLASS} with `s` {} and `scaler` 1, the only schedule implemented", sampler::S),
        found: format!("{class} with `s` {s} and `scaler` {scaler}; remove the file to use that schedule all the same"),
    })
}
