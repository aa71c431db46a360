//! The published layouts of a model's files: where each network is, and what its tensors are called there.
//!
//! | Network | `diffusers` | original repository | ComfyUI |
//! |---|---|---|---|
//! | Stage C | `prior/` | `stage_c` | `stable_cascade_stage_c`, `model.diffusion_model.` |
//! | Stage B | `decoder/` | `stage_b` | `stable_cascade_stage_b`, `model.diffusion_model.` |
//! | Stage A | `vqgan/` | `stage_a` | `stable_cascade_stage_b`, `vae.` |
//! | text encoder | `text_encoder/` | `text_encoder` | `stable_cascade_stage_c`, `text_encoder.` |
//! | image encoder | `image_encoder/` | `image_encoder` | `stable_cascade_stage_c`, `clip_l_vision.` |
//! | EfficientNet encoder | `effnet_encoder` | `effnet_encoder` | `stable_cascade_stage_c`, `vae.encoder.` |
//! | previewer | `previewer/` | `previewer` | `stable_cascade_stage_c`, `vae.previewer.` |
//!
//! This is the way back of what [`names`](super::names) does.

use std::str::FromStr;

use super::checkpoint::Checkpoint;
use super::kind::NetworkKind;
use super::names::SECTIONS;

/// A layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Folders with a `config.json` each.
    Diffusers,
    /// One file for each network.
    Original,
    /// Two files, in which a prefix tells networks apart.
    Comfyui,
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "diffusers" => Ok(Self::Diffusers),
            "original" => Ok(Self::Original),
            "comfyui" => Ok(Self::Comfyui),
            _ => Err(format!("expected diffusers, original or comfyui, got `{name}`")),
        }
    }
}

/// Where a layout has a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The weights' file in the model folder.
    pub file: &'static str,
    /// What the names of its tensors begin with there.
    pub prefix: &'static str,
    /// The file of its configuration. Single files need none, and get one only where their tensors do not show all sizes.
    pub config: &'static str,
}

/// Where each layout has the networks of a model.
const PLACES: [(NetworkKind, [Place; 3]); 7] = {
    const fn at(file: &'static str, prefix: &'static str, config: &'static str) -> Place {
        Place { file, prefix, config }
    }
    const C: &str = "stable_cascade_stage_c.safetensors";
    const B: &str = "stable_cascade_stage_b.safetensors";
    const UNET: &str = "model.diffusion_model.";
    [
        (
            NetworkKind::StageC,
            [
                at("prior/diffusion_pytorch_model.safetensors", "", "prior/config.json"),
                at("stage_c.safetensors", "", "stage_c.json"),
                at(C, UNET, "stage_c.json"),
            ],
        ),
        (
            NetworkKind::StageB,
            [
                at("decoder/diffusion_pytorch_model.safetensors", "", "decoder/config.json"),
                at("stage_b.safetensors", "", "stage_b.json"),
                at(B, UNET, "stage_b.json"),
            ],
        ),
        (
            NetworkKind::StageA,
            [
                at("vqgan/diffusion_pytorch_model.safetensors", "", "vqgan/config.json"),
                at("stage_a.safetensors", "", "stage_a.json"),
                at(B, "vae.", "stage_a.json"),
            ],
        ),
        (
            NetworkKind::TextEncoder,
            [
                at("text_encoder/model.safetensors", "", "text_encoder/config.json"),
                at("text_encoder.safetensors", "", "text_encoder.json"),
                at(C, "text_encoder.clip_g.transformer.", "text_encoder.json"),
            ],
        ),
        (
            NetworkKind::VisionEncoder,
            [
                at("image_encoder/model.safetensors", "", "image_encoder/config.json"),
                at("image_encoder.safetensors", "", "image_encoder.json"),
                at(C, "clip_l_vision.", "image_encoder.json"),
            ],
        ),
        (
            NetworkKind::EffnetEncoder,
            [
                at("effnet_encoder.safetensors", "", ""),
                at("effnet_encoder.safetensors", "", ""),
                at(C, "vae.encoder.", ""),
            ],
        ),
        (
            NetworkKind::Previewer,
            [
                at("previewer/diffusion_pytorch_model.safetensors", "", ""),
                at("previewer.safetensors", "", ""),
                at(C, "vae.previewer.", ""),
            ],
        ),
    ]
};

impl Layout {
    /// The layout that an opened network's file has.
    pub fn of(network: &Checkpoint) -> Self {
        let stored = |name| network.stored(name).map_or("", |stored| stored.name.as_str());
        let combined = network.names().any(|name| SECTIONS.iter().any(|prefix| stored(name).starts_with(prefix)));
        match (combined, network.original) {
            (true, _) => Self::Comfyui,
            (false, true) => Self::Original,
            (false, false) => Self::Diffusers,
        }
    }

    /// Where it has a network; `None` for those that are no part of a model.
    pub fn place(self, kind: NetworkKind) -> Option<Place> {
        let (_, places) = PLACES.iter().find(|(known, _)| *known == kind)?;
        Some(places[self as usize])
    }

    /// The tensors of a network in this layout, without prefix: their names, and the tensors by the names of `diffusers`
    /// that they consist of, one above the other.
    pub fn tensors(self, network: &Checkpoint) -> Vec<(String, Vec<String>)> {
        let names = network.names().map(str::to_owned);
        match (self, network.kind()) {
            (Self::Original | Self::Comfyui, NetworkKind::StageB | NetworkKind::StageC) => {
                names.filter_map(|name| of_unet(name, network.kind() == NetworkKind::StageB)).collect()
            }
            (Self::Original | Self::Comfyui, NetworkKind::StageA) => {
                names.map(|name| (name.replace("vquantizer.embedding.", "vquantizer.codebook."), vec![name])).collect()
            }
            _ => names.map(|name| (name.clone(), vec![name])).collect(),
        }
    }
}

/// The original repository's tensor that a tensor of a UNet is, or is the first part of.
fn of_unet(name: String, is_b: bool) -> Option<(String, Vec<String>)> {
    if let Some(rest) = name.strip_prefix("clip_txt_pooled_mapper.").filter(|_| is_b) {
        return Some((format!("clip_mapper.{rest}"), vec![name]));
    }
    let Some((block, part)) = name.split_once(".attention.") else { return Some((name.clone(), vec![name])) };
    match part.split_once('.') {
        Some(("to_q", what)) => {
            let parts = ["q", "k", "v"].map(|x| format!("{block}.attention.to_{x}.{what}"));
            Some((format!("{block}.attention.attn.in_proj_{what}"), parts.to_vec()))
        }
        Some(("to_k" | "to_v", _)) => None,
        _ => match part.strip_prefix("to_out.0.") {
            Some(what) => Some((format!("{block}.attention.attn.out_proj.{what}"), vec![name])),
            None => Some((name.clone(), vec![name])),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::{Rename, rename, section};
    use super::*;

    #[test]
    fn names_lead_back_to_where_they_came_from() {
        for (name, is_b) in [
            ("down_blocks.0.2.attention.to_q.weight", false),
            ("down_blocks.0.2.attention.to_q.bias", true),
            ("up_blocks.1.5.attention.to_out.0.bias", false),
            ("clip_txt_pooled_mapper.weight", true),
            ("clip_txt_pooled_mapper.weight", false),
            ("down_blocks.0.0.channelwise.2.gamma", false),
        ] {
            let (other, from) = of_unet(name.to_owned(), is_b).unwrap();
            assert_eq!(from[0], name);
            match rename(&other) {
                Rename::To(back) => assert_eq!(back, name),
                Rename::SplitRows(back) => assert_eq!(back.to_vec(), from),
                Rename::Transpose(_) => panic!("{other} is not transposed"),
            }
        }
        assert_eq!(of_unet("down_blocks.0.2.attention.to_v.bias".to_owned(), false), None);
        for (kind, places) in PLACES {
            let Place { prefix, .. } = places[Layout::Comfyui as usize];
            let (number, rest) = section(&format!("{prefix}x.weight"));
            assert!(prefix.starts_with(SECTIONS[number]) && rest.ends_with("x.weight"), "{kind}");
        }
    }
}
