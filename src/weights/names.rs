//! Tensor names: every published layout brought to the one of the `diffusers`
//! files. Names move, data stays where it lies.
//!
//! | Here (diffusers) | Original | Rule |
//! |---|---|---|
//! | `….attention.to_{q,k,v}.{weight,bias}` | `….attention.attn.in_proj_{weight,bias}` | three blocks of rows |
//! | `….attention.to_out.0.*` | `….attention.attn.out_proj.*` | renamed |
//! | `clip_txt_pooled_mapper.*` (Stage B) | `clip_mapper.*` | renamed |
//! | `vquantizer.embedding.weight` (Stage A) | `vquantizer.codebook.weight` | renamed |
//!
//! ComfyUI keeps several networks in one file, each under a [prefix](SECTIONS),
//! and in memory splits `in_proj` into `….attention.attn.to_q` and so on.

/// Prefixes under which a file may keep a network; a prefix stands before any
/// that is its beginning. Tensors under none of them are a network of their own.
pub const SECTIONS: [&str; 6] =
    ["model.diffusion_model.", "text_encoder.", "vae.encoder.", "vae.previewer.", "vae.", "clip_l_vision."];

/// What becomes of a tensor.
#[derive(Debug, PartialEq, Eq)]
pub enum Rename {
    /// It is called so.
    To(String),
    /// Its rows, in three equal blocks, are called so.
    SplitRows([String; 3]),
    /// It is called so and lies transposed.
    Transpose(String),
}

/// Splits a tensor's name into the section it belongs to (an index into
/// [`SECTIONS`], or its length for none) and the rest.
pub fn section(name: &str) -> (usize, &str) {
    let name = name.strip_prefix("state_dict.").unwrap_or(name);
    let found = SECTIONS.iter().enumerate().find_map(|(i, prefix)| Some((i, name.strip_prefix(prefix)?)));
    found.unwrap_or((SECTIONS.len(), name))
}

/// The name of a tensor in the `diffusers` scheme, from its name in any layout,
/// without a section's prefix.
///
/// ```
/// use cascade_rt::weights::names::{Rename, rename};
/// let Rename::SplitRows([q, ..]) = rename("up_blocks.0.2.attention.attn.in_proj_bias") else { panic!() };
/// assert_eq!(q, "up_blocks.0.2.attention.to_q.bias");
/// ```
pub fn rename(name: &str) -> Rename {
    if name == "clip_g.text_projection" {
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
