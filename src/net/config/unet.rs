//! `StableCascadeUNet`, the network of Stages B and C.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::{CHANNELS, Check, LAYERS, infer, source_of};
use crate::error::Result;
use crate::files::Location;
use crate::weights::Checkpoint;

/// A kind of block; each layer of a level is one of each kind listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Block {
    /// ConvNeXt-V2 style residual block, letter `C` in the original's configs.
    #[serde(rename = "SDCascadeResBlock")]
    Res,
    /// Scale and shift by the timestep, letter `T`.
    #[serde(rename = "SDCascadeTimestepBlock")]
    Timestep,
    /// Attention over the image and the text, letter `A`.
    #[serde(rename = "SDCascadeAttnBlock")]
    Attn,
}

/// Sizes of a UNet, fields as in `config.json` of the `diffusers` files.
///
/// Lists have one entry per level, the finest level first; lists of the up path
/// (`up_*`) are in execution order, the deepest level first. A field that the
/// file lacks takes the value of `diffusers`' class, which is the 3.6 B prior
/// but for the fields that are optional here. `dropout` plays no part.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the predicted noise.
    pub out_channels: usize,
    /// Length of each sinusoidal embedding.
    pub timestep_ratio_embedding_dim: usize,
    /// Side of the pixel-unshuffle at the input.
    pub patch_size: usize,
    /// Width of the text context, `Cc`.
    pub conditioning_dim: usize,
    /// Width of each level.
    pub block_out_channels: Vec<usize>,
    /// Heads of each level's attention; 0 where there is none.
    #[serde(deserialize_with = "heads")]
    pub num_attention_heads: Vec<usize>,
    /// Layers of each level on the way down.
    pub down_num_layers_per_block: Vec<usize>,
    /// Layers of each level on the way up, deepest first.
    pub up_num_layers_per_block: Vec<usize>,
    /// How often each level runs on the way down, with shared weights.
    pub down_blocks_repeat_mappers: Vec<usize>,
    /// How often each level runs on the way up, deepest first.
    pub up_blocks_repeat_mappers: Vec<usize>,
    /// Blocks of a layer, for each level.
    pub block_types_per_layer: Vec<Vec<Block>>,
    /// Width of the text states; `None` in Stage B.
    pub clip_text_in_channels: Option<usize>,
    /// Width of the pooled text vector.
    pub clip_text_pooled_in_channels: usize,
    /// Width of image embeddings; `None` in Stage B.
    pub clip_image_in_channels: Option<usize>,
    /// Context tokens made of each pooled vector.
    pub clip_seq: usize,
    /// Channels of the Stage C latents that Stage B refines; `None` in Stage C.
    pub effnet_in_channels: Option<usize>,
    /// Channels of the optional picture input; `None` in Stage C.
    pub pixel_mapper_in_channels: Option<usize>,
    /// Side of the depthwise convolutions.
    pub kernel_size: usize,
    /// Whether image tokens attend to each other, for each level.
    #[serde(deserialize_with = "per_level")]
    pub self_attn: Vec<bool>,
    /// Further time conditions, in the order of their embeddings: `sca`, `crp`.
    pub timestep_conditioning_type: Vec<String>,
    /// Stage C: between which levels the size changes. `None` in Stage B, where
    /// it always halves, by strided convolutions.
    pub switch_level: Option<Vec<bool>>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            in_channels: 16,
            out_channels: 16,
            timestep_ratio_embedding_dim: 64,
            patch_size: 1,
            conditioning_dim: 2048,
            block_out_channels: vec![2048, 2048],
            num_attention_heads: vec![32, 32],
            down_num_layers_per_block: vec![8, 24],
            up_num_layers_per_block: vec![24, 8],
            down_blocks_repeat_mappers: vec![1, 1],
            up_blocks_repeat_mappers: vec![1, 1],
            block_types_per_layer: vec![vec![Block::Res, Block::Timestep, Block::Attn]; 2],
            clip_text_in_channels: None,
            clip_text_pooled_in_channels: 1280,
            clip_image_in_channels: None,
            clip_seq: 4,
            effnet_in_channels: None,
            pixel_mapper_in_channels: None,
            kernel_size: 3,
            self_attn: vec![true],
            timestep_conditioning_type: vec!["sca".to_owned(), "crp".to_owned()],
            switch_level: None,
        }
    }
}

impl UNetConfig {
    /// Reads `config.json`, or infers the sizes from `weights` without one; and what to say of them in messages.
    pub(crate) fn read_or_infer(config: Option<&Location>, weights: &Checkpoint) -> Result<(Self, String)> {
        let read = config.map_or_else(|| infer::unet(weights), Self::read)?;
        Ok((read, source_of(config)))
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// If it is missing, no JSON, or has absurd or contradictory values.
    pub fn read(file: impl Into<Location>) -> Result<Self> {
        let file = file.into();
        let mut config: Self = file.read_json()?;
        let levels = config.block_out_channels.len();
        if let [all] = config.self_attn[..] {
            config.self_attn = vec![all; levels];
        }
        config.validate(file.path())?;
        Ok(config)
    }

    /// Levels; level 0 is the finest.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Whether a level has attention.
    pub fn has_attention(&self, level: usize) -> bool {
        self.block_types_per_layer[level].contains(&Block::Attn)
    }

    /// Checks that all numbers are sensible and that lists fit together; `path`
    /// is for messages.
    pub(super) fn validate(&self, path: &Path) -> Result<()> {
        let check = Check { path };
        let levels = self.levels();
        check.within("block_out_channels", levels, 1..=8)?;
        check.list("block_out_channels", &self.block_out_channels, levels, CHANNELS)?;
        check.list("down_num_layers_per_block", &self.down_num_layers_per_block, levels, LAYERS)?;
        check.list("up_num_layers_per_block", &self.up_num_layers_per_block, levels, LAYERS)?;
        check.list("down_blocks_repeat_mappers", &self.down_blocks_repeat_mappers, levels, 1..=64)?;
        check.list("up_blocks_repeat_mappers", &self.up_blocks_repeat_mappers, levels, 1..=64)?;
        check.list("num_attention_heads", &self.num_attention_heads, levels, 0..=*CHANNELS.end())?;
        check.len("self_attn", self.self_attn.len(), levels)?;
        check.len("block_types_per_layer", self.block_types_per_layer.len(), levels)?;
        for (level, blocks) in self.block_types_per_layer.iter().enumerate() {
            check.within("block_types_per_layer", blocks.len(), 1..=8)?;
            if self.has_attention(level) {
                check.heads("num_attention_heads", self.num_attention_heads[level], self.block_out_channels[level])?;
            }
        }
        if let Some(switches) = &self.switch_level {
            check.len("switch_level", switches.len(), levels - 1)?;
        }

        for (field, value) in [
            ("in_channels", Some(self.in_channels)),
            ("out_channels", Some(self.out_channels)),
            ("conditioning_dim", Some(self.conditioning_dim)),
            ("clip_text_in_channels", self.clip_text_in_channels),
            ("clip_text_pooled_in_channels", Some(self.clip_text_pooled_in_channels)),
            ("clip_image_in_channels", self.clip_image_in_channels),
            ("effnet_in_channels", self.effnet_in_channels),
            ("pixel_mapper_in_channels", self.pixel_mapper_in_channels),
        ] {
            check.within(field, value.unwrap_or(1), CHANNELS)?;
        }
        check.within("timestep_ratio_embedding_dim", self.timestep_ratio_embedding_dim, 4..=4096)?;
        check.within("patch_size", self.patch_size, 1..=16)?;
        check.within("clip_seq", self.clip_seq, 1..=1024)?;
        check.within("kernel_size", self.kernel_size, 1..=15)?;
        if self.kernel_size.is_multiple_of(2) {
            return Err(check.bad("kernel_size", "odd".to_owned(), self.kernel_size.to_string()));
        }
        check.within("timestep_conditioning_type", self.timestep_conditioning_type.len(), 0..=8)?;
        for name in &self.timestep_conditioning_type {
            if !["sca", "crp"].contains(&name.as_str()) {
                let found = format!("`{}`", name.escape_debug());
                return Err(check.bad("timestep_conditioning_type", "of `sca` and `crp`".to_owned(), found));
            }
        }
        Ok(())
    }
}

/// Head counts; 0 and below mean that a level has no attention.
fn heads<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<usize>, D::Error> {
    let counts = Vec::<i64>::deserialize(deserializer)?;
    Ok(counts.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect())
}

/// One flag for all levels, or one each. A single flag is spread over the
/// levels once their number is known.
fn per_level<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(bool),
        Many(Vec<bool>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(all) => vec![all],
        OneOrMany::Many(list) => list,
    })
}
