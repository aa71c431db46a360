//! CLIP: the text tower, which encodes prompts, and the vision tower, which encodes pictures.

use super::config::{Activation, ClipTextConfig, ClipVisionConfig};
use super::{Net, With, slot};
use crate::error::Result;
use crate::ops::{Add, Attention, Concat, Embed, Function, Gather};
use crate::plan::{Slot, Source};
use crate::shape::Shape;

/// The results of the text tower.
#[derive(Debug, Clone, Copy)]
pub struct TextStates {
    /// The states of all tokens before the final layer norm, `[n, 1, t, c]`.
    pub states: Slot,
    /// The state of the end token after the final layer norm and the projection, `[n, 1, 1, p]`.
    pub pooled: Slot,
}

/// The text tower.
///
/// * `ids [n, 1, t, 1]` (u32), padded
/// * `key_len [1, 1, 1, n]` (u32): the number of tokens of each prompt without padding
/// * `end [1, 1, 1, n]` (u32): the index of each prompt's end token among the `n·t` tokens of all prompts
///
/// Source: `CLIPTextModelWithProjection`.
pub fn text(net: &mut Net<'_>, config: &ClipTextConfig, ids: Slot, key_len: Slot, end: Slot) -> Result<TextStates> {
    let c = config.hidden_size;
    let mut model = net.scope("text_model");
    let tokens = model.weight("embeddings.token_embedding.weight", &[config.vocab_size, c])?;
    let positions = model.weight("embeddings.position_embedding.weight", &[config.max_position_embeddings, c])?;
    let mut x = model.op("embeddings", Embed, &[slot(ids), tokens, positions])?;
    let heads = config.num_attention_heads;
    let attention = Attention { heads, head_dim: c / heads, self_part: true, causal: true };
    let layer = Layer {
        attention,
        intermediate: config.intermediate_size,
        function: config.hidden_act.into(),
        eps: config.layer_norm_eps,
    };
    for l in 0..config.num_hidden_layers {
        x = layer.record(&mut model.scope(format!("encoder.layers.{l}")), x, slot(key_len))?;
    }
    let last = model.op("pooled", Gather, &[slot(x), slot(end)])?;
    let last = model.layer_norm_affine("final_layer_norm", last, config.layer_norm_eps)?;
    let pooled = net.linear("text_projection", last, config.projection_dim, With { bias: false, ..With::default() })?;
    Ok(TextStates { states: x, pooled })
}

/// The vision tower: normalised `pixels [n, s, s, 3]` → `[n, 1, 1, p]`.
///
/// * `class_ids [n, 1, 1, 1]` (u32): zeros
/// * `class_rows [1, 1, 1, n]` (u32): multiples of `patches + 1`, the index of each image's class token
/// * `patch_ids [1, 1, patches, 1]` (u32): `1..=patches`
///
/// Source: `CLIPVisionModelWithProjection`.
pub fn vision(
    net: &mut Net<'_>,
    config: &ClipVisionConfig,
    pixels: Slot,
    class_ids: Slot,
    class_rows: Slot,
    patch_ids: Slot,
) -> Result<Slot> {
    let (c, patch, n) = (config.hidden_size, config.patch_size, pixels.shape.n);
    let mut model = net.scope("vision_model");
    let mut embed = model.scope("embeddings");
    let patches = embed.patches("patch_embedding", pixels, patch, c, false)?;
    let count = patches.shape.tokens();
    let positions = embed.weight("position_embedding.weight", &[count + 1, c])?;
    let class = embed.weight_as("class_embedding", &[c], &[1, c])?;
    let class = embed.op("class_embedding", Embed, &[slot(class_ids), class, positions])?;
    let positions = embed.op("position_embedding", Embed, &[slot(patch_ids), positions, None])?;
    let patches = patches.reshape(Shape::new(n, 1, count, c));
    let patches = embed.op("embeddings", Add, &[slot(patches), slot(positions)])?;
    let x = embed.op("embeddings", Concat::Tokens, &[slot(class), slot(patches)])?;
    let mut x = model.layer_norm_affine("pre_layrnorm", x, config.layer_norm_eps)?;
    let heads = config.num_attention_heads;
    let attention = Attention { heads, head_dim: c / heads, self_part: true, causal: false };
    let layer = Layer {
        attention,
        intermediate: config.intermediate_size,
        function: config.hidden_act.into(),
        eps: config.layer_norm_eps,
    };
    for l in 0..config.num_hidden_layers {
        x = layer.record(&mut model.scope(format!("encoder.layers.{l}")), x, None)?;
    }
    let first = model.op("class", Gather, &[slot(x), slot(class_rows)])?;
    let first = model.layer_norm_affine("post_layernorm", first, config.layer_norm_eps)?;
    net.linear("visual_projection", first, config.projection_dim, With { bias: false, ..With::default() })
}

/// A transformer layer, which is the same in both towers.
struct Layer {
    attention: Attention,
    intermediate: usize,
    function: Function,
    eps: f32,
}

impl Layer {
    /// `x [n, 1, t, c]` → `[n, 1, t, c]`, in 7 nodes.
    fn record(&self, net: &mut Net<'_>, x: Slot, key_len: Option<Source>) -> Result<Slot> {
        let c = x.shape.c;
        let y = net.layer_norm_affine("layer_norm1", x, self.eps)?;
        let qkv = net.linears("self_attn.", &["q_proj", "k_proj", "v_proj"], y, c, With::default())?;
        let y = net.op("self_attn", self.attention, &[slot(qkv), None, key_len])?;
        let x = net.linear("self_attn.out_proj", y, c, With { residual: Some(x), ..With::default() })?;
        let y = net.layer_norm_affine("layer_norm2", x, self.eps)?;
        let y = net.linear("mlp.fc1", y, self.intermediate, With { function: self.function, ..With::default() })?;
        net.linear("mlp.fc2", y, c, With { residual: Some(x), ..With::default() })
    }
}

impl From<Activation> for Function {
    fn from(activation: Activation) -> Function {
        match activation {
            Activation::Gelu => Function::GeluErf,
            Activation::QuickGelu => Function::QuickGelu,
        }
    }
}
