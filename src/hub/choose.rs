//! Which files of a repository are needed.

use super::fetch::File;
use crate::weights::Variant;

/// What is wanted of a model.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Which of several variants of weights.
    pub variant: Variant,
    /// The small Stage B and Stage C in place of the large ones.
    pub lite: bool,
}

/// Folders of a model in the layout of `diffusers`, with the small networks' where there are such.
const FOLDERS: [(&str, &str); 10] = [
    ("prior", "prior_lite"),
    ("decoder", "decoder_lite"),
    ("vqgan", "vqgan"),
    ("text_encoder", "text_encoder"),
    ("image_encoder", "image_encoder"),
    ("tokenizer", "tokenizer"),
    ("feature_extractor", "feature_extractor"),
    ("scheduler", "scheduler"),
    ("previewer", "previewer"),
    ("", ""),
];
/// Weights beside such folders that have no folder of their own.
const BESIDE: [&str; 2] = ["effnet_encoder.safetensors", "previewer.safetensors"];

impl Choice {
    /// The files that are needed, in their order.
    pub(super) fn of(&self, files: Vec<File>) -> Vec<File> {
        let is_diffusers = files.iter().any(|file| file.name == "model_index.json");
        let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        files.into_iter().filter(|file| self.takes(&file.name, &names, is_diffusers)).collect()
    }

    fn takes(&self, name: &str, all: &[String], is_diffusers: bool) -> bool {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        if file.starts_with('.') {
            return false;
        }
        let is_weights = file.contains(".safetensors");
        let is_text = [".json", ".txt", ".model"].iter().any(|end| file.ends_with(end));
        if is_diffusers {
            let wanted = FOLDERS.iter().any(|(large, small)| folder == *if self.lite { small } else { large });
            if !wanted || folder.is_empty() && is_weights {
                return wanted && BESIDE.contains(&file);
            }
        }
        match is_weights {
            true => self.variant_in(folder, all).is_some_and(|variant| variant == variant_of(file)),
            false => is_text,
        }
    }

    /// The variant that is taken of the weights in a folder. Half precision overflows in Stage C, and is taken where it is
    /// asked for alone.
    fn variant_in(&self, folder: &str, all: &[String]) -> Option<&str> {
        let has = |variant: &str| {
            let is_such = |name: &String| {
                let (of, file) = name.rsplit_once('/').unwrap_or(("", name));
                of == folder && file.contains(".safetensors") && variant_of(file) == variant
            };
            all.iter().any(is_such)
        };
        let is_asked_for = |variant: &str| variant != "fp16" || matches!(self.variant, Variant::Named(_));
        self.variant.order().into_iter().find(|variant| is_asked_for(variant) && has(variant))
    }
}

/// The variant of a file of weights: `bf16` of `model.bf16.safetensors`, `model.bf16-00001-of-00002.safetensors`,
/// `model.safetensors.index.bf16.json` and `stage_c_bf16.safetensors`; "" if it has none.
fn variant_of(file: &str) -> &str {
    let is_variant = |part: &&str| ["bf16", "fp16", "fp32", "int8"].contains(part);
    file.split(['.', '-', '_']).find(is_variant).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(choice: &Choice, names: &[&str]) -> Vec<String> {
        let file = |name: &&str| File { name: (*name).to_owned(), bytes: 1, hash: "0".repeat(40) };
        choice.of(names.iter().map(file).collect()).into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn a_model_in_the_layout_of_diffusers() {
        let names = [
            ".gitattributes",
            "README.md",
            "model_index.json",
            "decoder/config.json",
            "decoder/diffusion_pytorch_model.bf16.safetensors",
            "decoder/diffusion_pytorch_model.safetensors",
            "decoder_lite/config.json",
            "decoder_lite/diffusion_pytorch_model.bf16.safetensors",
            "effnet_encoder.safetensors",
            "stage_c.safetensors",
            "stage_c_bf16.safetensors",
            "text_encoder/model.bf16-00001-of-00002.safetensors",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/model.safetensors",
            "text_encoder/model.safetensors.index.bf16.json",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "vqgan/config.json",
            "vqgan/diffusion_pytorch_model.safetensors",
            "vqgan/old.bin",
        ];
        let usual = taken(&Choice::default(), &names);
        assert_eq!(
            usual,
            [names[2], names[3], names[4], names[8], names[11], names[14], names[15], names[16], names[17], names[18]]
        );
        let lite = taken(&Choice { lite: true, ..Choice::default() }, &names);
        assert_eq!(lite[..4], [names[2], names[6], names[7], names[8]]);
        let exact = Choice { variant: "none".parse().unwrap(), lite: false };
        let exact = taken(&exact, &names);
        assert!(exact.contains(&names[5].to_owned()) && exact.contains(&names[13].to_owned()), "{exact:?}");
        assert!(!exact.contains(&names[4].to_owned()) && !exact.contains(&names[11].to_owned()), "{exact:?}");
    }

    #[test]
    fn half_precision_is_never_a_default() {
        let names = ["prior/m.fp16.safetensors", "prior/config.json"];
        assert_eq!(taken(&Choice::default(), &names), ["prior/config.json"]);
        assert_eq!(taken(&Choice { variant: "fp16".parse().unwrap(), lite: false }, &names).len(), 2);
    }

    #[test]
    fn other_repositories_give_weights_and_texts() {
        let names = ["README.md", "style.safetensors", "config.json", "style.ckpt"];
        assert_eq!(taken(&Choice::default(), &names), ["style.safetensors", "config.json"]);
    }
}
