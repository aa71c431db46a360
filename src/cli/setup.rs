//! Flags that several commands share: the model, the device, how to sample, and at which size.

use std::path::PathBuf;

use super::adapters::Chosen;
use super::{ModelArgs, note, probe};
use crate::backend::Backend;
use crate::backend::devices::{self, Choice};
use crate::error::Result;
use crate::model::Model;
use crate::registry::Caps;
use crate::request::{Request, parse_guidance, parse_steps, parse_whole};
use crate::sizes::StageSizes;
use crate::synth::{self, Preset};

/// Precision of GEMMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    /// The device's best exact one: f32 on the CPU.
    Auto,
    /// f32 throughout. Weights that are stored in fewer bits are converted, which is exact.
    F32,
    /// Operands rounded to bf16, accumulators in f32. Faster on some CPUs with AVX512-BF16; `bench` measures it.
    Bf16,
}

/// A model and a device.
#[derive(Debug, clap::Args)]
pub(super) struct Setup {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) adapters: super::adapters::Args,
    /// auto, cpu, wgpu[:N] or cuda[:N]; see `cascade-rt devices`.
    #[arg(long, value_name = "NAME", default_value = "auto", env = "CASCADE_DEVICE")]
    device: Choice,
    /// Do not use kernels that need these capabilities of the device (`cascade-rt devices` lists them), to compare
    /// kernels, or to avoid one that is wrong. `sm_90a` stands for what only Hopper GPUs have.
    #[arg(long, value_name = "NAME,…", env = "CASCADE_WITHOUT")]
    without: Option<Caps>,
    /// Use the shaders in this folder instead of the built-in ones of the same name.
    #[arg(long, value_name = "DIR", env = "CASCADE_SHADER_DIR")]
    shader_dir: Option<PathBuf>,
    /// Precision of GEMMs.
    #[arg(long, value_enum, default_value_t = Precision::Auto, env = "CASCADE_DTYPE")]
    dtype: Precision,
}

impl Setup {
    /// Opens the model, changed by the adapters of the flags.
    pub(super) fn open_model(&self, quiet: bool) -> Result<Model> {
        self.open_model_with(&[], quiet)
    }

    /// Opens the model, changed by the adapters of the flags, and those that prompts ask for.
    pub(super) fn open_model_with(&self, tags: &[Chosen], quiet: bool) -> Result<Model> {
        let paths = self.model.find()?;
        if !self.model.is_given() && !quiet {
            note("model: the built-in demo, small things on plain backgrounds; -m FOLDER runs a real Stable Cascade");
        }
        let mut model = Model::open(&paths)?;
        self.adapters.apply(&mut model, tags, quiet)?;
        Ok(model)
    }

    /// Opens the device.
    pub(super) fn open_device(&self) -> Result<Box<dyn Backend>> {
        let caps = devices::wanted(self.dtype == Precision::Bf16, self.without.unwrap_or_default());
        let (choice, wrong) = probe::choose(self.device)?;
        let backend = devices::open(choice, caps, self.shader_dir.as_deref())?;
        wrong.iter().chain(&backend.device().faults).for_each(|what| note(&format!("warning: {what}")));
        Ok(backend)
    }
}

/// How latents are sampled.
#[derive(Debug, clap::Args)]
pub(super) struct Sampling {
    /// Denoising steps of Stage C, then Stage B.
    ///
    /// Time grows in proportion to the steps. More than the default change the
    /// picture little.
    #[arg(long, value_name = "C,B", default_value = "20,10", value_parser = parse_steps, allow_hyphen_values = true, env = "CASCADE_STEPS")]
    steps: (u32, u32),
    /// Guidance of Stage C, then Stage B: how far to follow the prompt. 1 and below is off.
    #[arg(long, value_name = "C,B", default_value = "4.0,0.0", value_parser = parse_guidance, allow_hyphen_values = true, env = "CASCADE_GUIDANCE")]
    guidance: (f32, f32),
    /// Pixels of the picture for a pixel of Stage C's latent, 4 to 128. Fewer give more, smaller things.
    #[arg(long, value_name = "PX", default_value_t = StageSizes::COMPRESSION, env = "CASCADE_COMPRESSION")]
    compression: f32,
    #[command(flatten)]
    method: super::method::Args,
}

impl Sampling {
    /// `request`, sampled like this.
    pub(super) fn apply(&self, request: Request) -> Request {
        self.method.apply(Request {
            steps: self.steps,
            guidance: self.guidance,
            compression: self.compression,
            ..request
        })
    }
}

/// Size and number of the pictures of a prompt.
#[derive(Debug, clap::Args)]
pub(super) struct Size {
    /// Width in pixels, a multiple of 8 from 64 up. Without it, the width that the model was trained for, or 1024.
    #[arg(short = 'W', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, env = "CASCADE_WIDTH")]
    pub(super) width: Option<u32>,
    /// Height in pixels, like the width.
    #[arg(short = 'H', long, value_name = "PX", value_parser = parse_whole::<u32>, allow_negative_numbers = true, env = "CASCADE_HEIGHT")]
    pub(super) height: Option<u32>,
    /// Pictures of each prompt.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = parse_whole::<u32>, allow_negative_numbers = true, env = "CASCADE_COUNT")]
    pub(super) count: u32,
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
        self.setup.adapters.apply(&mut model, &[], quiet)?;
        Ok(model)
    }

    /// The model's name, for results.
    pub(super) fn name(&self) -> Result<String> {
        self.synthetic.map_or_else(|| self.setup.model.name(), |preset| Ok(format!("synthetic {preset}")))
    }

    /// A request with one prompt. Where no size is given, pictures have the size that the model was trained for.
    pub(super) fn request(&self, size: (Option<u32>, Option<u32>), count: u32, model: &Model) -> Result<Request> {
        let usual = Request::default();
        let side = |given: Option<u32>, usual: u32| given.or(model.native_size).unwrap_or(usual);
        let request = Request {
            prompts: vec!["a red apple on a blue background".into()],
            width: side(size.0, usual.width),
            height: side(size.1, usual.height),
            count,
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
