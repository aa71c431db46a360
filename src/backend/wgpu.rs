//! The WGSL backend: any GPU that Vulkan, Metal or DX12 can reach, through wgpu.
//!
//! Activations lie in one read-write buffer, weights in read-only buffers as
//! they are in the file, the parameters of all nodes in one uniform buffer. All
//! pipelines and bind groups are made when a plan is compiled; running records
//! one compute pass.

mod adapter;
mod cache;
mod context;
mod memory;
mod pace;
mod parts;
mod pipelines;
mod program;
mod shader;
mod shaders;
pub mod spirv;
mod tally;
mod timer;
mod trial;

use std::path::Path;
use std::sync::Arc;

use super::weights::{Store, Weights};
use super::{Backend, Device, Program};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::registry::{Caps, Kernel, Launch};
use context::Context;
use shaders::{Replacements, Shaders};

/// What is known of every adapter without opening it, by number.
pub fn adapters() -> Vec<Device> {
    adapter::all().iter().map(adapter::describe).collect()
}

/// The kernels that the shaders in a folder change.
///
/// # Errors
/// If the folder cannot be read, or holds what is no shader, or none.
pub fn changed(shader_dir: &Path) -> Result<Vec<&'static str>> {
    Replacements::read(shader_dir).map(|replacements| replacements.changed().collect())
}

/// What a device is to have less than it has, for tests. `None` leaves a thing as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Less {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Work of every submission, in FLOP.
    pub submission: Option<u64>,
    /// Workgroups along an axis of a dispatch.
    pub groups: Option<u32>,
    /// Bytes of a binding.
    pub binding: Option<u64>,
    /// Bytes of a buffer.
    pub buffer: Option<u64>,
    /// Capabilities that are not to be trusted, besides cooperative matrices: the device loses them if a kernel that
    /// needs them computes something wrong.
    pub suspects: Caps,
}

impl Less {
    fn limits(self, has: wgpu::Limits) -> wgpu::Limits {
        wgpu::Limits {
            max_compute_workgroups_per_dimension: self.groups.unwrap_or(has.max_compute_workgroups_per_dimension),
            max_storage_buffer_binding_size: self.binding.unwrap_or(has.max_storage_buffer_binding_size),
            max_buffer_size: self.buffer.unwrap_or(has.max_buffer_size),
            ..has
        }
    }
}

/// An opened GPU.
pub struct Wgpu {
    context: Arc<Context>,
    shaders: Shaders,
    weights: Arc<Store<Context>>,
}

impl Wgpu {
    /// Opens adapter `index` with everything it has; GEMM inputs may be rounded to f16 if `round_f16` is set. Shaders in `shader_dir` replace those
    /// of the same name.
    ///
    /// # Errors
    /// If there is no such adapter, it does not open, or the folder holds what is no kernel.
    pub fn open(index: usize, round_f16: bool, shader_dir: Option<&Path>) -> Result<Self> {
        let round = if round_f16 { Caps::ROUND_F16 } else { Caps::NONE };
        let caps = adapter::all().get(index).map_or(Caps::NONE, |a| adapter::describe(a).caps);
        Self::with_caps(index, caps.and(round), shader_dir)
    }

    /// The same with the capabilities given; those that the adapter lacks are left out.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn with_caps(index: usize, caps: Caps, shader_dir: Option<&Path>) -> Result<Self> {
        Self::with_less(index, caps, shader_dir, Less::default())
    }

    /// The same of a device as if it had less than it has, for tests.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn with_less(index: usize, caps: Caps, shader_dir: Option<&Path>, less: Less) -> Result<Self> {
        let Some(adapter) = adapter::all().get(index) else {
            let (found, remedy) = match adapter::all().len() {
                0 => ("no Vulkan, Metal or DX12 driver answers".to_owned(), "install a GPU driver"),
                n => (format!("the last one here is wgpu:{}", n - 1), "choose a lower number"),
            };
            let remedy = format!("{remedy}, or use `device cpu`; `devices::all` lists what there is");
            return Err(Error::Device { wanted: format!("wgpu:{index}"), found, remedy });
        };
        let replacements = shader_dir.map(Replacements::read).transpose()?.unwrap_or_default();
        let missing = caps.without(adapter::describe(adapter).caps.and(Caps::ROUND_F16));
        let gpu = Self::of(Context::open(adapter, caps.without(missing), less)?, replacements.clone());
        let suspects = less.suspects.and(Caps::COOPERATIVE).and(Caps::COOPERATIVE_8);
        let Some(why) = trial::run(&gpu, suspects)? else { return Ok(gpu) };
        let fault = format!("{why}, so kernels that need {} are not used", gpu.device().caps.common(suspects));
        let context = Context::open(adapter, gpu.device().caps.without(suspects), less)?;
        Ok(Self::of(context.with_fault(fault), replacements))
    }

    fn of(context: Context, replacements: Replacements) -> Self {
        let context = Arc::new(context);
        let shaders = Shaders::new(context.clone(), replacements);
        Self { weights: Store::new(context.clone()), context, shaders }
    }

    /// Gives the device up at once, as if it had been unplugged. Whatever is compiled for it reports
    /// the loss; [`open`](Self::open) makes a new one.
    pub fn lose(&self) {
        self.context.device.destroy();
    }

    /// Keeps the next submission from the device, as if its driver had given it up without a word.
    pub fn lose_submission(&self) {
        self.context.tally.lose_next();
    }
}

impl Backend for Wgpu {
    fn device(&self) -> &Device {
        self.context.info()
    }

    fn free_bytes(&self) -> Result<u64> {
        self.weights.free_bytes()
    }

    fn peak_bytes(&self) -> Option<u64> {
        self.context.peak.get()
    }

    fn compile_with(&self, plan: Arc<Plan>, kernels: &[&'static Kernel]) -> Result<Box<dyn Program>> {
        let shader = |kernel: &&'static Kernel| match &kernel.launch {
            Launch::Wgsl(shader) => (*kernel, shader),
            _ => unreachable!("rows of WGSL are shaders"),
        };
        let kernels: Vec<_> = kernels.iter().map(shader).collect();
        let weights = Weights::new(&self.weights, plan.clone(), false);
        let program = program::compile(self.context.clone(), &self.shaders, weights, plan, &kernels)?;
        Ok(Box::new(program))
    }
}
