//! Shaders and pipelines of a device, each made once and kept for all programs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::context::Context;
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

/// Every shader and pipeline made so far.
pub(super) struct Shaders {
    context: Arc<Context>,
    replacements: HashMap<&'static str, PathBuf>,
    loaded: Mutex<HashMap<&'static str, Arc<Loaded>>>,
    pipelines: Mutex<HashMap<(&'static str, &'static str, String), wgpu::ComputePipeline>>,
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
        Self { context, replacements, loaded: Mutex::default(), pipelines: Mutex::default() }
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
            let tunables = pass.grid.iter().chain(shader.scratch).map(|axis| axis.per);
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
        let made = self.make(kernel.name, module);
        self.context.check()?;
        loaded.insert(kernel.name, made.clone());
        Ok(made)
    }

    fn make(&self, name: &str, module: Module) -> Arc<Loaded> {
        let device = &self.context.device;
        let label = Some(name);
        let shader = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source: module.source() });
        let bindings = module.bindings();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &bindings });
        let pipelines = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: PART_BYTES,
        });
        Arc::new(Loaded { module, shader, bindings, layout, pipelines })
    }

    /// The pipeline of one entry point, specialised to operands of these kinds.
    pub(super) fn pipeline(
        &self,
        name: &'static str,
        loaded: &Loaded,
        entry: &'static str,
        kinds: &[u32],
    ) -> Result<wgpu::ComputePipeline> {
        let constants: Constants = loaded.module.constants(kinds);
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name, entry, format!("{constants:?}"));
        if let Some(known) = pipelines.get(&key) {
            return Ok(known.clone());
        }
        let constants: Vec<(&str, f64)> = constants.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let pipeline = self.context.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&loaded.pipelines),
            module: &loaded.shader,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Kernels write workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.context.check()?;
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}
