//! Shaders and pipelines of a device, each made once and kept for all programs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::context::Context;
use super::pipelines::{Pipeline, Workers};
use super::shader::Module;
use crate::error::{Error, Result};
use crate::registry::{self, Kernel, Lang, Shader};

/// A shader that the device has accepted.
pub(super) struct Loaded {
    pub(super) module: Module,
    shader: wgpu::ShaderModule,
    pub(super) bindings: Vec<wgpu::BindGroupLayoutEntry>,
    pub(super) layout: wgpu::BindGroupLayout,
    pipelines: wgpu::PipelineLayout,
}

/// `Part` of `common.wgsl`: three u32, and one more to fill it up.
pub(super) const PART_BYTES: u32 = 16;

type Constants = Vec<(String, f64)>;

/// The checks that shaders of this crate do without.
const TRUSTED: wgpu::ShaderRuntimeChecks = wgpu::ShaderRuntimeChecks {
    bounds_checks: false,
    force_loop_bounding: false,
    ..wgpu::ShaderRuntimeChecks::checked()
};

/// A kernel, its entry point, and the kinds of its operands.
type PipelineKey = (&'static str, &'static str, String);

/// Every shader and pipeline made so far.
pub(super) struct Shaders {
    context: Arc<Context>,
    replacements: HashMap<&'static str, PathBuf>,
    loaded: Mutex<HashMap<&'static str, Arc<Loaded>>>,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    workers: Workers,
}

/// The files of `--shader-dir` by the kernel that they replace.
///
/// # Errors
/// If the folder cannot be read, or a shader in it has no kernel's name.
pub(super) fn replacements(folder: &std::path::Path) -> Result<HashMap<&'static str, PathBuf>> {
    let disk = |source| Error::Disk { path: folder.into(), action: "read", source };
    let mut found = HashMap::new();
    for entry in std::fs::read_dir(folder).map_err(disk)? {
        let path = entry.map_err(disk)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".wgsl")) else {
            continue;
        };
        let Some(kernel) = registry::kernels(Lang::Wgsl).find(|k| k.name == name) else {
            return Err(Error::Shader {
                message: format!("no kernel is called `{name}`; `cascade-rt kernels` lists the names\n"),
                path,
            });
        };
        found.insert(kernel.name, path);
    }
    if found.is_empty() {
        return Err(Error::Shader {
            path: folder.into(),
            message: "no file here is called KERNEL.wgsl; `cascade-rt kernels` lists the kernels".into(),
        });
    }
    Ok(found)
}

impl Shaders {
    pub(super) fn new(context: Arc<Context>, replacements: HashMap<&'static str, PathBuf>) -> Self {
        let (loaded, pipelines, workers) = Default::default();
        Self { context, replacements, loaded, pipelines, workers }
    }

    /// The shader of a row, from the replacement's file if there is one.
    pub(super) fn load(&self, kernel: &Kernel, shader: &Shader) -> Result<Arc<Loaded>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = loaded.get(kernel.name) {
            return Ok(known.clone());
        }
        let (path, replaced) = match self.replacements.get(kernel.name) {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                (path.clone(), Some(text.map_err(|source| Error::Disk { path: path.clone(), action: "read", source })?))
            }
            None => (PathBuf::from(format!("shaders/{}.wgsl", kernel.name)), None),
        };
        let module = Module::parse(&path, replaced.as_deref().unwrap_or(shader.source), shader)?;
        let broken = |message: String| Error::Shader { path: path.clone(), message };
        for pass in shader.passes {
            if !module.has_entry(pass.entry) {
                return Err(broken(format!("there is no entry point `{}`\n", pass.entry)));
            }
            let tunables = pass.grid.iter().chain(shader.scratch).map(|axis| axis.per).chain([shader.band]);
            for name in tunables.filter(|name| !name.is_empty()) {
                if module.number(name).is_none_or(|value| value == 0) {
                    return Err(broken(format!("no `override` or `const` called `{name}` is a number above 0\n")));
                }
            }
        }
        let limit = self.context.limits().max_compute_workgroup_storage_size;
        match module.workgroup_bytes() {
            Some(bytes) if bytes <= limit.into() => {}
            Some(bytes) => {
                return Err(broken(format!("takes {bytes} bytes of workgroup memory, the device has {limit}\n")));
            }
            None => return Err(broken("the size of its workgroup memory cannot be told\n".into())),
        }
        let made = self.make(kernel.name, module, replaced.is_none());
        self.context.check()?;
        loaded.insert(kernel.name, made.clone());
        Ok(made)
    }

    fn make(&self, name: &str, module: Module, built_in: bool) -> Arc<Loaded> {
        let device = &self.context.device;
        let label = Some(name);
        let descriptor = wgpu::ShaderModuleDescriptor { label, source: module.source() };
        let shader = match built_in {
            #[expect(unsafe_code, reason = "clamped indices and counters in every loop cost a third of a GEMM's time")]
            // SAFETY: the shaders of this crate index in bounds and their loops end, for every shape that the op's shape
            // rule accepts: indices are compared with, or clamped to, shapes in `Params`, which are those of what is bound,
            // and loops count up to them. tests/kernels.rs runs every shader on every case of its op so, and .ci/run once
            // more with all checks, where a clamped index would change a result and a counter would end a loop. What
            // drivers check of buffers (robustBufferAccess) stays on, and so do checks of divisors.
            true => unsafe { device.create_shader_module_trusted(descriptor, TRUSTED) },
            false => device.create_shader_module(descriptor),
        };
        let bindings = module.bindings();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &bindings });
        let pipelines = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: PART_BYTES,
        });
        Arc::new(Loaded { module, shader, bindings, layout, pipelines })
    }

    /// The pipeline of one entry point, specialised to operands of these kinds. It is not compiled yet, see
    /// [`compile`](Self::compile).
    pub(super) fn pipeline(
        &self,
        name: &'static str,
        loaded: &Arc<Loaded>,
        entry: &'static str,
        kinds: &[u32],
    ) -> Arc<Pipeline> {
        let constants: Constants = loaded.module.constants(kinds);
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name, entry, format!("{constants:?}"));
        if let Some(known) = pipelines.get(&key) {
            return known.clone();
        }
        let (context, loaded) = (self.context.clone(), loaded.clone());
        let pipeline = Arc::new(Pipeline::new(move || {
            let constants: Vec<(&str, f64)> = constants.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            context.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&loaded.pipelines),
                module: &loaded.shader,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    // Kernels write workgroup memory before they read it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: context.cache.as_ref().map(|cache| cache.raw()),
            })
        }));
        self.workers.add(pipeline.clone());
        pipelines.insert(key, pipeline.clone());
        pipeline
    }

    /// Begins to compile the pipelines that were asked for since the last time, on threads of their own. What is wrong with
    /// one is reported by whatever waits for the device next; but at once where there are shaders from outside.
    pub(super) fn compile(&self) -> Result<()> {
        if self.replacements.is_empty() {
            self.workers.start(&self.context);
            return Ok(());
        }
        self.workers.finish();
        self.context.check()
    }
}
