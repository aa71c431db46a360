//! Shaders and pipelines of a device, each made once and kept for all programs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::context::Context;
use super::pipelines::{Pipeline, Workers};
use super::shader::Module;
use crate::error::{Error, Result};
use crate::registry::{self, Kernel, Lang, Launch, Shader};

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
pub(super) const TRUSTED: wgpu::ShaderRuntimeChecks = wgpu::ShaderRuntimeChecks {
    bounds_checks: false,
    force_loop_bounding: false,
    ..wgpu::ShaderRuntimeChecks::checked()
};

/// A kernel, its entry point, and the kinds of its operands.
type PipelineKey = (&'static str, &'static str, String);

/// Every shader and pipeline made so far.
pub(super) struct Shaders {
    context: Arc<Context>,
    replacements: Replacements,
    loaded: Mutex<HashMap<&'static str, Arc<Loaded>>>,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    workers: Workers,
}

/// The files of a folder that stand for built-in ones of the same name.
#[derive(Debug, Clone, Default)]
pub(super) struct Replacements {
    /// Of kernels, by their names; read when they are first used.
    kernels: HashMap<&'static str, PathBuf>,
    /// Of what is appended to kernels, with their texts.
    shared: HashMap<&'static str, (PathBuf, String)>,
}

impl Replacements {
    /// Looks through a folder.
    ///
    /// # Errors
    /// If it cannot be read, or a shader in it has no known name, or there is none.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Disk { path, action: "read", source }
        };
        let mut found = Self::default();
        for entry in std::fs::read_dir(folder).map_err(disk(folder))? {
            let path = entry.map_err(disk(folder))?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".wgsl")) else {
                continue;
            };
            let appended = shaders().flat_map(|(_, shader)| shader.appended()).find(|shared| shared.name == name);
            if let Some((kernel, _)) = shaders().find(|(kernel, _)| kernel.name == name) {
                found.kernels.insert(kernel.name, path);
            } else if let Some(shared) = appended {
                let text = std::fs::read_to_string(&path).map_err(disk(&path))?;
                found.shared.insert(shared.name, (path, text));
            } else {
                let message = format!(
                    "neither a kernel nor a text that kernels share is called `{name}`; `cascade-rt kernels` lists the \
                     kernels, and they share common and what ends in .shared\n"
                );
                return Err(Error::Shader { message, path });
            }
        }
        match found.kernels.is_empty() && found.shared.is_empty() {
            false => Ok(found),
            true => Err(Error::Shader {
                path: folder.into(),
                message: "no file here is called KERNEL.wgsl; `cascade-rt kernels` lists the kernels".into(),
            }),
        }
    }

    /// The kernels whose text is not the built-in one.
    pub(super) fn changed(&self) -> impl Iterator<Item = &'static str> {
        let changed = |kernel: &Kernel, shader: &Shader| {
            self.kernels.contains_key(kernel.name)
                || shader.appended().any(|shared| self.shared.contains_key(shared.name))
        };
        shaders().filter(move |(kernel, shader)| changed(kernel, shader)).map(|(kernel, _)| kernel.name)
    }
}

/// Every row that is a shader.
fn shaders() -> impl Iterator<Item = (&'static Kernel, &'static Shader)> {
    registry::kernels(Lang::Wgsl).filter_map(|kernel| match &kernel.launch {
        Launch::Wgsl(shader) => Some((kernel, shader)),
        _ => None,
    })
}

impl Shaders {
    pub(super) fn new(context: Arc<Context>, replacements: Replacements) -> Self {
        let (loaded, pipelines, workers) = Default::default();
        Self { context, replacements, loaded, pipelines, workers }
    }

    /// The shader of a row, from the replacement's file if there is one.
    pub(super) fn load(&self, kernel: &Kernel, shader: &Shader) -> Result<Arc<Loaded>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = loaded.get(kernel.name) {
            return Ok(known.clone());
        }
        let file = |name| PathBuf::from(format!("shaders/{name}.wgsl"));
        let given = self.replacements.kernels.get(kernel.name);
        let path = given.cloned().unwrap_or_else(|| file(kernel.name));
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| Error::Disk { path: path.clone(), action: "read", source })
        };
        let given = given.map(read).transpose()?;
        let own = given.as_deref().unwrap_or(shader.source);
        let appended = shader.appended().map(|shared| match self.replacements.shared.get(shared.name) {
            Some((path, text)) => (path.clone(), text.as_str()),
            None => (file(shared.name), shared.text),
        });
        let texts: Vec<_> = [(path.clone(), own)].into_iter().chain(appended).collect();
        let module = Module::parse(&texts, shader)?;
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
        let is_built_in = !self.replacements.changed().any(|name| name == kernel.name);
        let made = self.make(kernel.name, module, is_built_in);
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
        if self.replacements.changed().next().is_none() {
            self.workers.start(&self.context);
            return Ok(());
        }
        self.workers.finish();
        self.context.check()
    }
}
