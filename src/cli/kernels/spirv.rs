//! `cascade-rt kernels --spirv`: every pipeline of every shader as a file, for tools that need no device.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::backend::wgpu::spirv;
use crate::check::cases::{self, One, Stored};
use crate::cli::say;
use crate::error::{Error, Result};
use crate::registry::{self, Lang, Launch, Target};

/// Writes `DIR/<kernel>,<entry point>,<operand>=<kind>….spv` for every pipeline that any case of any op takes, and says
/// how many there are.
pub(super) fn write(folder: &Path) -> Result<()> {
    let disk = |source| Error::Disk { path: folder.into(), action: "write into", source };
    fs::create_dir_all(folder).map_err(disk)?;
    let all = every()?;
    for (name, words) in &all {
        fs::write(folder.join(format!("{name}.spv")), bytemuck::cast_slice(words)).map_err(disk)?;
    }
    say(&format!("{} pipelines in {}", all.len(), folder.display()))
}

/// Every pipeline by name. Where an entry point does not use an operand, how that is stored makes no other pipeline.
fn every() -> Result<BTreeMap<String, Vec<u32>>> {
    let mut all = BTreeMap::new();
    for kernel in registry::kernels(Lang::Wgsl) {
        let Launch::Wgsl(shader) = kernel.launch else { unreachable!("rows of WGSL are shaders") };
        // A device that has just what the kernel needs.
        let target = Target::new(Lang::Wgsl, kernel.needs);
        let mut different = BTreeMap::new();
        for (number, case) in cases::of(kernel.op) {
            for stored in Stored::all(case).filter(|stored| !stored.gemm_inputs) {
                let Some(one) = One::of(number, stored) else { continue };
                let plan = one.plan();
                if registry::admissible(&plan.nodes[0], plan, target).any(|row| std::ptr::eq(row, kernel)) {
                    for (name, words) in spirv::pipelines(kernel, &shader, plan)? {
                        different.entry(words).or_insert(name);
                    }
                }
            }
        }
        all.extend(different.into_iter().map(|(words, name)| (name, words)));
    }
    Ok(all)
}
