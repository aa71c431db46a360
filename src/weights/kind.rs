//! Recognises which network a set of tensors belongs to.

use std::fmt;

/// A kind of network, recognised from the names of its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetworkKind {
    /// Image decoder and encoder (`vqgan`).
    StageA,
    /// Latent diffusion decoder (`decoder`).
    StageB,
    /// Text-conditional prior (`prior`).
    StageC,
    /// CLIP text tower.
    TextEncoder,
    /// CLIP vision tower.
    VisionEncoder,
    /// EfficientNetV2-S image encoder.
    EffnetEncoder,
    /// Small RGB preview of Stage C latents.
    Previewer,
    /// ControlNet for Stage C.
    ControlNet,
    /// Low-rank adaptation of one of the above.
    Lora,
    /// None of these.
    Unknown,
}

impl NetworkKind {
    /// Recognises a network from its tensors' names, in the scheme of the
    /// `diffusers` files and without prefixes.
    ///
    /// ```
    /// use cascade_rt::weights::NetworkKind;
    /// let names = ["clf.1.weight", "clip_txt_mapper.weight"];
    /// assert_eq!(NetworkKind::of(names), NetworkKind::StageC);
    /// ```
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str> + Clone) -> Self {
        let any = |wanted: &dyn Fn(&str) -> bool| names.clone().into_iter().any(wanted);
        let has = |name: &str| any(&|n| n == name);
        // Adapters are tested first, because their names contain those of the network that they adapt.
        if any(&|n| LORA.iter().any(|mark| n.contains(mark))) {
            Self::Lora
        } else if any(&|n| n.starts_with("projections.")) {
            Self::ControlNet
        } else if has("clf.1.weight") {
            if has("clip_txt_mapper.weight") { Self::StageC } else { Self::StageB }
        } else if has("vquantizer.embedding.weight") || has("out_block.0.weight") {
            Self::StageA
        } else if has("text_model.embeddings.token_embedding.weight") {
            Self::TextEncoder
        } else if has("vision_model.embeddings.class_embedding") {
            Self::VisionEncoder
        } else if has("backbone.0.0.weight") && has("mapper.0.weight") {
            Self::EffnetEncoder
        } else if has("blocks.0.weight") && has("blocks.24.weight") || has("rgb.weight") {
            Self::Previewer
        } else {
            Self::Unknown
        }
    }
}

/// Substrings of the tensor names of adapters: the original and kohya's layout (`lora_up`), PEFT
/// (`lora_A`), and state dicts of parametrised modules.
const LORA: [&str; 6] =
    [".lora_down", ".lora_up", ".lora_A", ".lora_B", ".lora_magnitude_vector", ".parametrizations."];

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StageA => "Stage A (image decoder)",
            Self::StageB => "Stage B (decoder UNet)",
            Self::StageC => "Stage C (prior UNet)",
            Self::TextEncoder => "a CLIP text encoder",
            Self::VisionEncoder => "a CLIP vision encoder",
            Self::EffnetEncoder => "the EfficientNet image encoder",
            Self::Previewer => "the previewer",
            Self::ControlNet => "a ControlNet",
            Self::Lora => "a LoRA",
            Self::Unknown => "an unknown network",
        })
    }
}
