//! Sizes of a network from its tensors, for files without a `config.json`.
//!
//! What comes out is checked like a config that was read: the numbers here come
//! from a file, too.

use super::{
    Activation, Backbone, Block, ClipTextConfig, ClipVisionConfig, ControlNetConfig, EffnetBackbone, EffnetConfig,
    Layer, StageAConfig, UNetConfig,
};
use crate::error::{Error, Result};
use crate::weights::{Checkpoint, NetworkKind};

/// Channels of an attention head in all published networks.
const HEAD: usize = 64;

/// A checkpoint being asked.
struct Ask<'a>(&'a Checkpoint);

impl Ask<'_> {
    /// Dimension `i` of a tensor that must be there.
    fn dim(&self, name: &str, i: usize) -> Result<usize> {
        let dims = self.0.dims(name);
        dims.and_then(|d| d.get(i)).copied().ok_or_else(|| Error::Tensor {
            path: self.0.path.clone(),
            name: name.to_owned(),
            expected: format!("at least {} dimensions, to infer sizes from", i + 1),
            found: dims.map_or("nothing".to_owned(), |d| format!("{d:?}")),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.0.dims(name).is_some()
    }

    /// How many of `prefix.0.…`, `prefix.1.…` follow each other from `first` on.
    fn count(&self, prefix: &str, first: usize) -> usize {
        let any = |i: &usize| {
            let start = format!("{prefix}.{i}.");
            self.0.starts_with(&start)
        };
        (first..).take_while(any).count()
    }

    fn bad(&self, expected: &str, found: String) -> Error {
        Error::Model { path: self.0.path.clone(), expected: expected.to_owned(), found }
    }

    /// Heads of an attention of this width.
    fn heads(&self, width: usize) -> Result<usize> {
        if width.is_multiple_of(HEAD) {
            return Ok(width / HEAD);
        }
        let found = format!("an attention of width {width} and no config.json; put the model's config.json beside it");
        Err(self.bad("attention heads of 64 channels, or a config.json", found))
    }
}

/// Sizes of a UNet.
///
/// `patch_size` cannot be seen in the tensors: Stage C has 1, Stage B 2.
pub(super) fn unet(weights: &Checkpoint) -> Result<UNetConfig> {
    let ask = Ask(weights);
    let patch_size = if weights.kind() == NetworkKind::StageC { 1 } else { 2 };
    let levels = ask.count("down_blocks", 0);
    let mut config = UNetConfig {
        patch_size,
        in_channels: ask.dim("embedding.1.weight", 1)? / (patch_size * patch_size),
        out_channels: ask.dim("clf.1.weight", 0)? / (patch_size * patch_size),
        clip_text_pooled_in_channels: ask.dim("clip_txt_pooled_mapper.weight", 1)?,
        clip_text_in_channels: optional(&ask, "clip_txt_mapper.weight")?,
        clip_image_in_channels: optional(&ask, "clip_img_mapper.weight")?,
        effnet_in_channels: optional(&ask, "effnet_mapper.0.weight")?,
        pixel_mapper_in_channels: optional(&ask, "pixels_mapper.0.weight")?,
        kernel_size: ask.dim("down_blocks.0.0.depthwise.weight", 2)?,
        self_attn: vec![true; levels],
        switch_level: ask.has("down_downscalers.1.1.blocks.0.weight").then(|| vec![false; levels.max(1) - 1]),
        block_out_channels: Vec::new(),
        num_attention_heads: Vec::new(),
        block_types_per_layer: Vec::new(),
        down_num_layers_per_block: Vec::new(),
        up_num_layers_per_block: Vec::new(),
        down_blocks_repeat_mappers: Vec::new(),
        up_blocks_repeat_mappers: Vec::new(),
        ..UNetConfig::default()
    };

    for level in 0..levels {
        let down = format!("down_blocks.{level}");
        let width = ask.dim(&format!("{down}.0.depthwise.weight"), 0)?;
        let blocks = layer(&ask, &down);
        config.num_attention_heads.push(if blocks.contains(&Block::Attn) { ask.heads(width)? } else { 0 });
        config.block_out_channels.push(width);
        config.down_num_layers_per_block.push(ask.count(&down, 0) / blocks.len());
        config.block_types_per_layer.push(blocks);
        config.down_blocks_repeat_mappers.push(1 + ask.count(&format!("down_repeat_mappers.{level}"), 0));
    }
    for up in 0..levels {
        let blocks = &config.block_types_per_layer[levels - 1 - up];
        config.up_num_layers_per_block.push(ask.count(&format!("up_blocks.{up}"), 0) / blocks.len());
        config.up_blocks_repeat_mappers.push(1 + ask.count(&format!("up_repeat_mappers.{up}"), 0));
    }

    let mapper = weights.names().find_map(|n| n.strip_suffix(".mapper.weight"));
    if let Some(block) = mapper {
        config.timestep_ratio_embedding_dim = ask.dim(&format!("{block}.mapper.weight"), 1)?;
        config.timestep_conditioning_type.retain(|c| ask.has(&format!("{block}.mapper_{c}.weight")));
    }
    // The pooled mapper makes `clip_seq` tokens of width `conditioning_dim`; each
    // attention shows the width. Without any, the usual number of tokens is taken.
    let pooled = ask.dim("clip_txt_pooled_mapper.weight", 0)?;
    config.conditioning_dim = match weights.names().find(|n| n.ends_with(".kv_mapper.1.weight")) {
        Some(kv) => ask.dim(kv, 1)?,
        None => pooled / config.clip_seq,
    };
    config.clip_seq = pooled / config.conditioning_dim.max(1);
    config.validate(&weights.path)?;
    Ok(config)
}

/// Second dimension of a tensor, if it is there.
fn optional(ask: &Ask<'_>, name: &str) -> Result<Option<usize>> {
    if ask.has(name) { ask.dim(name, 1).map(Some) } else { Ok(None) }
}

/// The blocks of a level's first layer: up to where the residual block recurs.
fn layer(ask: &Ask<'_>, level: &str) -> Vec<Block> {
    let kind = |m: usize| {
        let has = |tensor: &str| ask.has(&format!("{level}.{m}.{tensor}.weight"));
        if has("depthwise") {
            Some(Block::Res)
        } else if has("mapper") {
            Some(Block::Timestep)
        } else {
            has("kv_mapper.1").then_some(Block::Attn)
        }
    };
    let rest = (1..8).map_while(kind).take_while(|&k| k != Block::Res);
    std::iter::once(Block::Res).chain(rest).collect()
}

/// Sizes of Stage A, with the scale of the `diffusers` files.
pub(super) fn stage_a(weights: &Checkpoint) -> Result<StageAConfig> {
    let ask = Ask(weights);
    let defaults = StageAConfig::default();
    let shuffle = defaults.up_down_scale_factor.pow(2);
    // Encoder: block, (conv, block) per further level, then one list entry more.
    let levels = ask.count("down_blocks", 0) / 2;
    // Decoder: conv, blocks of the deepest level, (conv, block) per further level.
    let bottleneck_blocks = ask.count("up_blocks", 1).saturating_sub(2 * levels.max(1) - 2);
    let config = StageAConfig {
        levels,
        bottleneck_blocks,
        embed_dim: ask.dim("up_blocks.0.0.weight", 0)?,
        latent_channels: ask.dim("up_blocks.0.0.weight", 1)?,
        in_channels: ask.dim("in_block.1.weight", 1)? / shuffle,
        out_channels: ask.dim("out_block.0.weight", 0)? / shuffle,
        num_vq_embeddings: ask.dim("vquantizer.embedding.weight", 0)?,
        ..defaults
    };
    config.validate(&weights.path)?;
    Ok(config)
}

/// Sizes of the EfficientNet encoder.
pub(super) fn effnet(weights: &Checkpoint) -> Result<EffnetConfig> {
    let ask = Ask(weights);
    Ok(EffnetConfig { backbone: effnet_backbone(&ask)?, latent_channels: ask.dim("mapper.0.weight", 0)? })
}

/// Sizes of a ControlNet.
pub(super) fn controlnet(weights: &Checkpoint) -> Result<ControlNetConfig> {
    let ask = Ask(weights);
    let (first, backbone) = if ask.has("backbone.0.0.weight") {
        ("backbone.0.0.weight", Backbone::Effnet(effnet_backbone(&ask)?))
    } else if ask.has("backbone.3.blocks.0.weight") {
        let is_block = |i: &usize| ask.has(&format!("backbone.{i}.blocks.0.weight"));
        let (hidden, width) = (ask.dim("backbone.0.weight", 0)?, ask.dim("backbone.2.weight", 0)?);
        ("backbone.0.weight", Backbone::Large { hidden, width, blocks: (3..).take_while(is_block).count() })
    } else {
        ("backbone.0.weight", Backbone::Simple)
    };
    Ok(ControlNetConfig {
        hint_channels: ask.dim(first, 1)?,
        backbone,
        features: ask.dim("projections.0.0.weight", 1)?,
        channels: ask.dim("projections.0.2.weight", 0)?,
        projections: ask.count("projections", 0),
    })
}

/// Sizes of the part of EfficientNet that makes features.
fn effnet_backbone(ask: &Ask<'_>) -> Result<EffnetBackbone> {
    let layer = |block: &str| -> Result<Layer> {
        let rows = |name: &str| ask.dim(&format!("{block}.{name}.weight"), 0);
        let wide = rows("0.0")?;
        if ask.has(&format!("{block}.2.fc1.weight")) {
            return Ok(Layer::Inverted { wide, squeeze: rows("2.fc1")?, width: rows("3.0")? });
        }
        match ask.has(&format!("{block}.1.0.weight")) {
            true => Ok(Layer::Fused { wide, width: rows("1.0")? }),
            false => Ok(Layer::Plain { width: wide }),
        }
    };
    let mut stages: [Vec<Layer>; 6] = Default::default();
    for (stage, layers) in (1..).zip(&mut stages) {
        let name = format!("backbone.{stage}");
        *layers = (0..ask.count(&name, 0)).map(|i| layer(&format!("{name}.{i}.block"))).collect::<Result<_>>()?;
    }
    Ok(EffnetBackbone { stem: ask.dim("backbone.0.0.weight", 0)?, stages, head: ask.dim("backbone.7.0.weight", 0)? })
}

/// Sizes of Stable Cascade's text tower.
pub(super) fn clip_text(weights: &Checkpoint) -> Result<ClipTextConfig> {
    let ask = Ask(weights);
    let hidden_size = ask.dim("text_model.embeddings.token_embedding.weight", 1)?;
    Ok(ClipTextConfig {
        hidden_size,
        intermediate_size: ask.dim("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        num_hidden_layers: ask.count("text_model.encoder.layers", 0),
        num_attention_heads: ask.heads(hidden_size)?,
        hidden_act: Activation::Gelu,
        max_position_embeddings: ask.dim("text_model.embeddings.position_embedding.weight", 0)?,
        ..ClipTextConfig::default()
    })
}

/// Sizes of Stable Cascade's vision tower.
pub(super) fn clip_vision(weights: &Checkpoint) -> Result<ClipVisionConfig> {
    let ask = Ask(weights);
    let patches = "vision_model.embeddings.patch_embedding.weight";
    let hidden_size = ask.dim(patches, 0)?;
    let patch_size = ask.dim(patches, 2)?;
    let positions = ask.dim("vision_model.embeddings.position_embedding.weight", 0)?;
    Ok(ClipVisionConfig {
        hidden_size,
        intermediate_size: ask.dim("vision_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        num_hidden_layers: ask.count("vision_model.encoder.layers", 0),
        num_attention_heads: ask.heads(hidden_size)?,
        hidden_act: Activation::QuickGelu,
        // One position is the class token's; patches form a square.
        image_size: positions.saturating_sub(1).isqrt().saturating_mul(patch_size),
        patch_size,
        num_channels: ask.dim(patches, 1)?,
        ..ClipVisionConfig::default()
    })
}
