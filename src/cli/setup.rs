//! Flags that several commands share: the model, the device, how to sample, and at which size.

use std::path::{Path, PathBuf};

use clap::{Args, FromArgMatches, ValueEnum};

use super::adapters::Chosen;
use super::{DEVICE, ModelArgs, PICTURE, note, probe};
use crate::backend::Backend;
use crate::backend::devices::{self, Choice, Rounding};
use crate::error::Result;
use crate::image::Record;
use crate::model::Model;
use crate::registry::Caps;
use crate::request::{Request, parse_guidance, parse_steps, parse_whole};
use crate::synth::{self, Preset};
use crate::weights::{ModelPaths, PartFiles, Variant};

/// Precision of GEMMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Precision {
    /// f32, but int8 where the model's weights are.
    Auto,
    /// f32 throughout. Weights that are stored in fewer bits are converted, which is exact.
    F32,
    /// Operands rounded to bf16, accumulators in f32. Faster on some CPUs with AVX512-BF16, `bench` measures it; the same as
    /// f32 on CPUs without, and in WGSL.
    Bf16,
    /// Operands rounded to f16, accumulators in f32, on GPUs whose WGSL has cooperative matrices; the same as f32 elsewhere.
    /// Each row of operands is multiplied by a power of two first, so that nothing overflows.
    F16,
    /// Weights of most layers rounded to int8 when they are first used, which takes memory besides the files, and what
    /// they are multiplied by as well; the rest in f32. `quantize` does it once and for all.
    Int8,
}

impl Precision {
    /// How kernels may round. Int8 weights are multiplied as such unless something else is asked for.
    fn rounding(self) -> Rounding {
        match self {
            Precision::F32 => Rounding::None,
            Precision::Bf16 => Rounding::Bf16,
            Precision::F16 => Rounding::F16,
            Precision::Auto | Precision::Int8 => Rounding::Int8,
        }
    }
}

/// A model and a device.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Setup {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) adapters: super::adapters::Args,
    /// auto, cpu, wgpu[:N] or cuda[:N]; see `cascade-rt devices`. [default: auto]
    #[arg(long, value_name = "NAME", help_heading = DEVICE, env = "CASCADE_DEVICE")]
    device: Option<Choice>,
    /// Do not use kernels that need these capabilities of the device (`cascade-rt devices` lists them), to compare
    /// kernels, or to avoid one that is wrong. `sm_90a` stands for what only Hopper GPUs have.
    #[arg(long, value_name = "NAME,…", help_heading = DEVICE, env = "CASCADE_WITHOUT")]
    without: Option<Caps>,
    /// Use the shaders in this folder instead of the built-in ones of the same name.
    #[arg(long, value_name = "DIR", help_heading = DEVICE, env = "CASCADE_SHADER_DIR")]
    shader_dir: Option<PathBuf>,
    /// Precision of GEMMs. [default: auto]
    #[arg(long, value_enum, help_heading = DEVICE, env = "CASCADE_DTYPE")]
    dtype: Option<Precision>,
}

/// A device, and which of its kernels are used.
pub(super) struct Opened {
    pub(super) backend: Box<dyn Backend>,
    device: Choice,
    without: Caps,
    precision: Precision,
}

impl Setup {
    /// Which weights to take where the model has several: what flags say, or else what a picture was made with. In f32,
    /// weights that are stored so come first.
    fn variant(&self, made: Option<&Record>) -> Variant {
        // The usual one is not recorded.
        let recorded = |record: &Record| record.variant.parse().ok().filter(|_| !record.variant.is_empty());
        let recorded = || made.filter(|_| self.dtype.is_none()).and_then(recorded);
        let usual = || if self.dtype == Some(Precision::F32) { Variant::Exact } else { Variant::Small };
        self.model.variant.clone().or_else(recorded).unwrap_or_else(usual)
    }

    /// Opens the model, changed by the adapters of the flags.
    pub(super) fn open_model(&self, quiet: bool) -> Result<Model> {
        self.open_model_with(&[], None, quiet)
    }

    /// Opens the model, changed by the adapters of the flags, and those that prompts ask for. As far as flags do not say
    /// which of its weights and in which precision, those of a picture.
    pub(super) fn open_model_with(&self, tags: &[Chosen], made: Option<&Record>, quiet: bool) -> Result<Model> {
        let paths = self.model.find(self.variant(made))?;
        if !self.model.is_given() && !quiet {
            note("model: the built-in demo, small things on plain backgrounds; -m FOLDER runs a real Stable Cascade");
        }
        let mut model = Model::open(&paths)?;
        self.quantise(self.precision(made), &mut model);
        self.adapters.apply(&mut model, tags, quiet)?;
        Ok(model)
    }

    /// Every file that a run with this model and device may read, so that none is replaced: weights, configurations,
    /// the tokenizer's files, adapters, shaders.
    ///
    /// # Errors
    /// If the model is no longer there.
    pub(super) fn reads(&self, model: &Model) -> Result<Vec<PathBuf>> {
        let paths = self.model.find(self.variant(None))?;
        let ModelPaths { stage_a, stage_b, stage_c, text_encoder, tokenizer, index, schedulers, .. } = paths;
        let extra =
            [paths.image_encoder, paths.effnet_encoder, paths.previewer].into_iter().flat_map(|lookup| lookup.find());
        let parts = [stage_a, stage_b, stage_c, text_encoder].into_iter().chain(extra);
        let of_parts = parts
            .flat_map(|PartFiles { weights, config, others, .. }| [weights].into_iter().chain(config).chain(others));
        let described = of_parts.chain(index).chain(schedulers).map(|location| location.path().to_owned());
        let weights = model.files().into_iter().map(PathBuf::from);
        let folders = [Some(tokenizer.path()), self.shader_dir.as_deref()].into_iter().flatten();
        let listed = folders.chain(self.adapters.files(&[])).flat_map(|path| match std::fs::read_dir(path) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(_) => vec![path.to_owned()],
        });
        Ok(described.chain(weights).chain(listed).collect())
    }

    /// Opens the device.
    pub(super) fn open_device(&self) -> Result<Box<dyn Backend>> {
        self.open_device_of(None).map(|opened| opened.backend)
    }

    /// Opens the device with the shaders of another folder than the one that was asked for.
    pub(super) fn open_with(&self, shader_dir: Option<&Path>) -> Result<Box<dyn Backend>> {
        self.open(None, shader_dir).map(|opened| opened.backend)
    }

    /// Opens the device; as far as flags do not say which, the one that made a picture.
    pub(super) fn open_device_of(&self, record: Option<&Record>) -> Result<Opened> {
        self.open(record, self.shader_dir.as_deref())
    }

    /// The precision of the flag, else that of a picture.
    fn precision(&self, record: Option<&Record>) -> Precision {
        let recorded = |record: &Record| Precision::from_str(&record.dtype, false).ok();
        self.dtype.or(record.and_then(recorded)).unwrap_or(Precision::Auto)
    }

    /// Makes weights int8 if the precision is.
    fn quantise(&self, precision: Precision, model: &mut Model) {
        if precision == Precision::Int8 {
            model.quantise();
        }
    }

    fn open(&self, record: Option<&Record>, shader_dir: Option<&Path>) -> Result<Opened> {
        let recorded = |field: fn(&Record) -> &String| record.map(field).filter(|text| !text.is_empty());
        let device = self.device.or(recorded(|record| &record.device).and_then(|text| text.parse().ok()));
        let without = self.without.or(recorded(|record| &record.without).and_then(|text| text.parse().ok()));
        let without = without.unwrap_or(Caps::NONE);
        let precision = self.precision(record);
        let (device, wrong) = probe::choose(device.unwrap_or(Choice::Auto))?;
        let backend = devices::open(device, devices::wanted(precision.rounding(), without), shader_dir)?;
        wrong.iter().chain(&backend.device().faults).for_each(|what| note(&format!("warning: {what}")));
        match precision {
            Precision::Bf16 | Precision::F16 if !backend.device().rounds() => {
                let (asked, other) = if precision == Precision::Bf16 { ("bf16", "f16") } else { ("f16", "bf16") };
                let remedy = format!(" (--dtype {other} rounds here)");
                let remedy = if backend.device().could_round() { remedy } else { String::new() };
                note(&format!(
                    "--dtype {asked}: no kernel of this device rounds to it, so that it is the same as f32{remedy}"
                ));
            }
            Precision::Int8 if backend.device().copies_weights => {
                note("--dtype int8: this device has int8 weights widened, and multiplies them as floats");
            }
            _ => {}
        }
        Ok(Opened { backend, device, without, precision })
    }

    /// The record of a run of `request` with this model on this device, which makes a picture again or does not.
    ///
    /// # Errors
    /// If no model is given, and none is built in.
    pub(super) fn record(
        &self,
        request: &Request,
        model: &Model,
        opened: &Opened,
        made: Option<&Record>,
    ) -> Result<Record> {
        let weights = model.sources.iter().filter(|source| !source.instead_of.is_empty());
        let weights = weights.map(|source| (source.part.into(), super::name_of(&source.file))).collect();
        let variant = Some(self.variant(made)).filter(|variant| *variant != Variant::default());
        let (name, mut parts) = self.model.names()?;
        parts.extend(self.shader_dir.iter().map(|folder| ("shader_dir".into(), super::name_of(folder))));
        let dtype = match opened.precision.rounding() {
            Rounding::Int8 if model.is_int8() => "int8",
            Rounding::Bf16 if opened.backend.device().rounds() => "bf16",
            Rounding::F16 if opened.backend.device().rounds() => "f16",
            _ => "f32",
        };
        let without = if opened.without == Caps::NONE { String::new() } else { opened.without.to_string() };
        Ok(Record {
            parts,
            variant: variant.map_or(String::new(), |variant| variant.to_string()),
            weights,
            device: opened.device.to_string(),
            dtype: dtype.into(),
            without: without.replace(" + ", ","),
            ..Record::new(request, &name)
        })
    }
}

/// How latents are sampled.
#[derive(Debug, clap::Args)]
pub(super) struct Sampling {
    /// Denoising steps of Stage C, then Stage B; one number is Stage C's. [default: 20,10]
    ///
    /// Time grows in proportion to the steps. More than the default change the
    /// picture little.
    #[arg(long, value_name = "C[,B]", value_parser = parse_steps, allow_hyphen_values = true, help_heading = PICTURE, env = "CASCADE_STEPS")]
    steps: Option<(u32, u32)>,
    /// Guidance of Stage C, then Stage B; one number is Stage C's: how far to follow the prompt. 1 and below is off.
    /// [default: 4,0]
    #[arg(long, value_name = "C[,B]", value_parser = parse_guidance, allow_hyphen_values = true, help_heading = PICTURE, env = "CASCADE_GUIDANCE")]
    guidance: Option<(f32, f32)>,
    /// Pixels of the picture for a pixel of Stage C's latent, 4 to 128. Fewer give more, smaller things.
    /// [default: 42.67]
    #[arg(long, value_name = "PX", help_heading = PICTURE, env = "CASCADE_COMPRESSION")]
    compression: Option<f32>,
    #[command(flatten)]
    method: super::method::Args,
}

impl Sampling {
    /// What one of these flags with this value says; `None` if there is no such flag.
    pub(super) fn of(flag: &str, value: &str) -> Option<std::result::Result<Self, String>> {
        let parser = Self::augment_args(clap::Command::new("").no_binary_name(true));
        // What the environment says of other flags is not asked for here.
        let parser = parser.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        let flag = flag.replace('_', "-");
        parser.get_arguments().find(|arg| arg.get_long() == Some(&flag))?;
        let parsed = parser.try_get_matches_from([format!("--{flag}={value}")]);
        let parsed = parsed.and_then(|matches| Self::from_arg_matches(&matches));
        // `error: invalid value 'x' for '--flag <F>': what is wrong`, and a hint in other lines.
        let wrong =
            |text: &str| text.lines().next().and_then(|line| line.split("': ").last()).unwrap_or(text).to_owned();
        Some(parsed.map_err(|e| wrong(&e.to_string())))
    }

    /// `request`, sampled like this where flags say how.
    pub(super) fn apply(&self, request: Request) -> Request {
        let request = self.method.preset(request);
        let (steps, guidance) = (self.steps.unwrap_or(request.steps), self.guidance.unwrap_or(request.guidance));
        let compression = self.compression.unwrap_or(request.compression);
        self.method.apply(Request { steps, guidance, compression, ..request })
    }
}

/// Size and number of the pictures of a prompt.
#[derive(Debug, clap::Args)]
pub(super) struct Size {
    /// Width in pixels, a multiple of 8 from 64 up. Without it, the width that the model was trained for, or 1024.
    #[arg(short = 'W', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, help_heading = PICTURE, env = "CASCADE_WIDTH")]
    pub(super) width: Option<u32>,
    /// Height in pixels, like the width.
    #[arg(short = 'H', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, help_heading = PICTURE, env = "CASCADE_HEIGHT")]
    pub(super) height: Option<u32>,
    /// Pictures of each prompt. [default: 1]
    #[arg(short, long, value_name = "N", value_parser = parse_whole::<u32>, allow_negative_numbers = true, help_heading = PICTURE, env = "CASCADE_COUNT")]
    pub(super) count: Option<u32>,
}

/// What is measured.
#[derive(Debug, clap::Args)]
pub(super) struct Subject {
    #[command(flatten)]
    pub(super) setup: Setup,
    #[command(flatten)]
    sampling: Sampling,
    /// Measure a model of this size, mid, lite or large, without any files. Its weights are random
    /// numbers in bf16: ranges of one block of 256 MiB, which all weights share.
    ///
    /// Times and the device's memory are those of a real model. The host's memory is
    /// less, and the pictures are noise.
    #[arg(long, value_name = "PRESET", conflicts_with_all = ["model", "prior", "stage_a", "stage_b", "stage_c", "text_encoder", "tokenizer", "image_encoder", "effnet_encoder"])]
    synthetic: Option<Preset>,
}

impl Subject {
    /// Opens or makes the model.
    pub(super) fn open_model(&self, quiet: bool) -> Result<Model> {
        let Some(preset) = self.synthetic else { return self.setup.open_model(quiet) };
        let mut model = synth::in_memory(preset)?;
        self.setup.quantise(self.setup.precision(None), &mut model);
        self.setup.adapters.apply(&mut model, &[], quiet)?;
        Ok(model)
    }

    /// Every file that a run may read, see [`Setup::reads`].
    pub(super) fn reads(&self, model: &Model) -> Result<Vec<PathBuf>> {
        self.synthetic.map_or_else(|| self.setup.reads(model), |_| Ok(Vec::new()))
    }

    /// The model's name, for results.
    pub(super) fn name(&self) -> Result<String> {
        self.synthetic
            .map_or_else(|| self.setup.model.names().map(|(name, _)| name), |preset| Ok(format!("synthetic {preset}")))
    }

    /// A request with one prompt. Where no size is given, pictures have the size that the model was trained for.
    pub(super) fn request(
        &self,
        size: (Option<u32>, Option<u32>),
        count: impl Into<Option<u32>>,
        model: &Model,
    ) -> Result<Request> {
        let usual = Request::default();
        let side = |given: Option<u32>, usual: u32| given.or(model.native_size).unwrap_or(usual);
        let request = Request {
            prompts: vec!["a red apple on a blue background".into()],
            width: side(size.0, usual.width),
            height: side(size.1, usual.height),
            count: count.into().unwrap_or(usual.count),
            ..usual
        };
        let request = self.sampling.apply(request);
        request.check().map(|()| request)
    }
}

/// The lines of a table, with the first column aligned to the left and the others to the right.
pub(super) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let length = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let width = |column| rows.iter().map(|row| length(row, column)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(i, cell): (usize, &String)| match i {
            0 => format!("{cell:<width$}", width = widths[0]),
            _ => format!("  {cell:>width$}", width = widths[i]),
        };
        row.iter().enumerate().map(cell).collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["µs".to_owned(), "1".into(), "b".into()], vec!["long".into(), "100".into()]];
        assert_eq!(aligned(&rows), ["µs      1  b", "long  100"]);
    }
}
