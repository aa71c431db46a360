//! SPIR-V of every pipeline, without a device: what validators, compilers of other makers and analysers of code read.

use super::shader::Module;
use super::shaders::TRUSTED;
use crate::backend::operand::{self, Kind};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::registry::{Kernel, Shader};

/// The pipelines that `kernel`, whose launch is `shader`, takes for the first node of `plan`, with their names:
/// `<kernel>,<entry point>`, then `,<operand>=<kind>` for each operand that is there and whose kind the shader asks for.
///
/// # Errors
/// If naga refuses the shader.
pub fn pipelines(kernel: &Kernel, shader: &Shader, plan: &Plan) -> Result<Vec<(String, Vec<u32>)>> {
    let module = Module::built_in(kernel, shader)?;
    let dtypes = plan.weight_dtypes(false);
    let kinds = operand::kinds(&plan.nodes[0], plan, |w| dtypes[w], false);
    let operands = module.operands(&kinds).into_iter().filter(|(_, kind)| *kind != Kind::Absent as u32);
    let operands: String = operands.map(|(name, kind)| format!(",{name}={}", Kind::NAMES[kind as usize])).collect();
    let pipeline = |entry: &str| {
        let words = module.spirv(entry, &kinds, TRUSTED);
        let words = words.map_err(|message| Error::Shader { path: kernel.name.into(), message })?;
        Ok((format!("{},{entry}{operands}", kernel.name), words))
    };
    shader.passes.iter().map(|pass| pipeline(pass.entry)).collect()
}
