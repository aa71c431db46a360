//! Which tensor an adapter's module name means.
//!
//! Names of the same module differ by a prefix for the network, by the spelling of attention, and by whether
//! modules are divided by dots or by underscores. Underscores cannot be undone, since names contain them too, so
//! the spellings of every known tensor are made and looked up.

use std::collections::HashMap;

use crate::weights::{Checkpoint, NetworkKind};

/// Prefixes of names with dots, and of names with underscores, by network. A name without any may be of any network.
fn prefixes(kind: NetworkKind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        NetworkKind::StageC => (
            &["prior.", "unet.", "diffusion_model.", "model.diffusion_model.", ""],
            &["lora_prior_unet_", "lora_unet_", "lora_prior_"],
        ),
        NetworkKind::StageB => (
            &["decoder.", "unet.", "diffusion_model.", "model.diffusion_model.", ""],
            &["lora_decoder_unet_", "lora_decoder_"],
        ),
        NetworkKind::TextEncoder => (
            &["text_encoder.", "clip_g.", "clip_g.transformer.", "te.", ""],
            &["lora_prior_te_", "lora_te_", "lora_te1_", "lora_clip_g_"],
        ),
        _ => (&[], &[]),
    }
}

/// PEFT wraps a model in two others.
const WRAPPERS: [&str; 2] = ["base_model.model.", ""];

/// The weights of one network by every name that an adapter may have for their modules.
pub(super) struct Names(HashMap<String, String>);

impl Names {
    /// All names of the weights of `network`.
    pub fn of(network: &Checkpoint) -> Self {
        let (dotted, underscored) = prefixes(network.kind());
        let mut names = HashMap::new();
        for tensor in network.names() {
            let Some(module) = tensor.strip_suffix(".weight") else { continue };
            for spelling in spellings(module) {
                for prefix in dotted {
                    names.entry(format!("{prefix}{spelling}")).or_insert_with(|| tensor.to_owned());
                }
                let flat = spelling.replace('.', "_");
                for prefix in underscored {
                    names.entry(format!("{prefix}{flat}")).or_insert_with(|| tensor.to_owned());
                }
            }
        }
        Self(names)
    }

    /// The tensor that `module` means.
    pub fn tensor(&self, module: &str) -> Option<&str> {
        let module = WRAPPERS.iter().find_map(|wrapper| module.strip_prefix(wrapper))?;
        // OneTrainer and Stability write the weight's own name where it is not a module's.
        let module = module.strip_suffix(".weight").unwrap_or(module);
        self.0.get(module).map(String::as_str)
    }
}

/// A module's name as others spell it, its own first.
fn spellings(module: &str) -> Vec<String> {
    let mut all = vec![module.to_owned()];
    if let Some((block, part)) = module.split_once(".attention.") {
        let index = ["to_q", "to_k", "to_v"].iter().position(|name| *name == part);
        match (index, part) {
            (Some(i), _) => {
                all.push(format!("{block}.attention.attn.{part}"));
                all.push(format!("{block}.attention.attn.in_proj.{i}"));
            }
            (None, "to_out.0") => {
                all.push(format!("{block}.attention.to_out"));
                all.push(format!("{block}.attention.attn.out_proj"));
                all.push(format!("{block}.attention.attn.to_out"));
            }
            _ => {}
        }
    }
    if module == "clip_txt_pooled_mapper" {
        all.push("clip_mapper".to_owned());
    }
    all
}

/// The attention weights of Stage C in the order in which the original repository's training walks through its
/// modules: for each block the output projection, then the three input projections.
pub(super) fn attention_in_order(stage_c: &Checkpoint) -> Vec<Vec<String>> {
    let place = |name: &str| {
        let (path, rest) = name.strip_suffix(".attention.to_out.0.weight")?.split_once('.')?;
        let path = ["down_blocks", "up_blocks"].iter().position(|known| *known == path)?;
        let (level, block) = rest.split_once('.')?;
        Some((path, level.parse::<usize>().ok()?, block.parse::<usize>().ok()?))
    };
    let mut blocks: Vec<_> = stage_c.names().filter_map(|name| Some((place(name)?, name))).collect();
    blocks.sort();
    let names = |(_, out): &(_, &str)| {
        let block = out.strip_suffix("to_out.0.weight").expect("it is an output projection");
        [vec![(*out).to_owned()], ["to_q", "to_k", "to_v"].map(|part| format!("{block}{part}.weight")).to_vec()]
    };
    blocks.iter().flat_map(names).collect()
}
