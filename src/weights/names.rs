//! Tensor names: maps those of every published layout to those of the `diffusers`
//! files, without moving any data.
//!
//! | `diffusers` name | Original name | Rule |
//! |---|---|---|
//! | `….attention.to_{q,k,v}.{weight,bias}` | `….attention.attn.in_proj_{weight,bias}` | split into three blocks of rows |
//! | `….attention.to_out.0.*` | `….attention.attn.out_proj.*` | renamed |
//! | `clip_txt_pooled_mapper.*` (Stage B) | `clip_mapper.*` | renamed |
//! | `vquantizer.embedding.weight` (Stage A) | `vquantizer.codebook.weight` | renamed |
//! | `text_projection.weight` (text encoder) | `text_projection` (OpenCLIP) | transposed |
//!
//! ComfyUI stores several networks in one file, each with a [prefix](SECTIONS). When it
//! saves a model it has loaded, `in_proj` is already split into `….attention.attn.to_q` and so on.
//!
//! Programs that train add the names of their wrappers (`WRAPPERS`) to those of tensors, and some keep averaged
//! weights under a prefix (`AVERAGES`) of their own. Those are taken only where the file has no others. Whatever else precedes
//! the names of a network is found by tensors that only one network has (`LANDMARKS`).

/// Name prefixes of the networks in a combined file. They are tested in this order, so a prefix
/// precedes any shorter one that it begins with. Tensors without a prefix form a network of their own.
pub const SECTIONS: [&str; 6] =
    ["model.diffusion_model.", "text_encoder.", "vae.encoder.", "vae.previewer.", "vae.", "clip_l_vision."];

/// Number of the section of tensors without a prefix.
pub const PLAIN: usize = SECTIONS.len();
/// Number of the section of averaged weights (EMA).
pub const AVERAGED: usize = PLAIN + 1;

/// Prefixes of averaged weights (EMA).
const AVERAGES: [&str; 4] = ["ema.", "ema_model.", "model_ema.", "ema_state_dict."];

/// Names that `torch.compile`, data parallelism, sharding, checkpointing of activations and trainers put before those
/// of the modules that they wrap.
const WRAPPERS: [&str; 5] =
    ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "state_dict."];

/// Tensors, by their names in the `diffusers` scheme, that show where a network's names begin.
const LANDMARKS: [&str; 5] = [
    ".clf.1.weight",
    ".vquantizer.embedding.weight",
    ".text_model.embeddings.token_embedding.weight",
    ".vision_model.embeddings.class_embedding",
    ".backbone.0.0.weight",
];

/// How a tensor is renamed.
#[derive(Debug, PartialEq, Eq)]
pub enum Rename {
    /// To this name.
    To(String),
    /// It is split into three blocks with the same number of rows, with these names.
    SplitRows([String; 3]),
    /// To this name; the file stores it transposed.
    Transpose(String),
}

/// Splits a tensor's name into its section (an index into [`SECTIONS`], or [`PLAIN`] or [`AVERAGED`]) and the rest of
/// the name, without wrappers.
///
/// ```
/// use cascade_rt::weights::names::{AVERAGED, PLAIN, section};
/// assert_eq!(section("module._orig_mod.clf.1.weight"), (PLAIN, "clf.1.weight".to_owned()));
/// assert_eq!(section("ema.clf._orig_mod.1.weight"), (AVERAGED, "clf.1.weight".to_owned()));
/// ```
pub fn section(name: &str) -> (usize, String) {
    let name = unwrapped(name);
    let after = |prefixes: &[&str]| {
        prefixes.iter().enumerate().find_map(|(i, prefix)| Some((i, unwrapped(name.strip_prefix(prefix)?))))
    };
    match (after(&SECTIONS), after(&AVERAGES)) {
        (Some(found), _) => found,
        (None, Some((_, rest))) => (AVERAGED, rest),
        (None, None) => (PLAIN, name),
    }
}

/// What precedes the names of networks among these, which have no section of their own: longer ones first, and those that
/// say that they are of averaged weights last.
///
/// ```
/// use cascade_rt::weights::names::prefixes;
/// assert_eq!(prefixes(["unet.clf.1.weight", "unet.clf.1.bias", "step"].into_iter()), ["unet."]);
/// ```
pub fn prefixes<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let prefix = |name: &str| match rename(name) {
        Rename::To(new) => {
            let begin = LANDMARKS.iter().find_map(|mark| new.strip_suffix(mark))?;
            Some(format!("{begin}."))
        }
        _ => None,
    };
    let mut all: Vec<String> = names.filter_map(prefix).collect();
    all.sort_by_key(|prefix| (is_averaged(prefix), std::cmp::Reverse(prefix.len()), prefix.clone()));
    all.dedup();
    all
}

/// Whether a prefix says that it is of averaged weights.
pub fn is_averaged(prefix: &str) -> bool {
    let prefix = prefix.to_lowercase();
    ["ema", "average", "shadow"].iter().any(|word| prefix.contains(word))
}

/// The name without those of wrappers.
fn unwrapped(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    let inner = |name: String, wrapper: &&str| match name.contains(*wrapper) {
        true => name.replace(&format!(".{wrapper}"), "."),
        false => name,
    };
    WRAPPERS.iter().fold(name.to_owned(), inner)
}

/// The name in the `diffusers` scheme of a tensor from any layout, given
/// without its section's prefix.
///
/// ```
/// use cascade_rt::weights::names::{Rename, rename};
/// let Rename::SplitRows([q, ..]) = rename("up_blocks.0.2.attention.attn.in_proj_bias") else { panic!() };
/// assert_eq!(q, "up_blocks.0.2.attention.to_q.bias");
/// ```
pub fn rename(name: &str) -> Rename {
    if matches!(name, "clip_g.text_projection" | "text_projection") {
        return Rename::Transpose("text_projection.weight".to_owned());
    }
    let name = name.strip_prefix("clip_g.transformer.").unwrap_or(name);
    for (old, new) in RENAMED {
        if let Some(rest) = name.strip_prefix(old) {
            return Rename::To(format!("{new}{rest}"));
        }
    }
    let Some((block, rest)) = name.split_once(".attention.attn.") else {
        return Rename::To(name.to_owned());
    };
    if let Some(what @ ("weight" | "bias")) = rest.strip_prefix("in_proj_") {
        return Rename::SplitRows(["q", "k", "v"].map(|x| format!("{block}.attention.to_{x}.{what}")));
    }
    match rest.strip_prefix("out_proj.") {
        Some(what) => Rename::To(format!("{block}.attention.to_out.0.{what}")),
        None => Rename::To(format!("{block}.attention.{rest}")),
    }
}

const RENAMED: [(&str, &str); 2] =
    [("clip_mapper.", "clip_txt_pooled_mapper."), ("vquantizer.codebook.", "vquantizer.embedding.")];
