//! Which tensors a network has: the one list of names and shapes.
//!
//! Dimensions are as stored, in PyTorch's order.

use super::{Block, ClipTextConfig, ClipVisionConfig, StageAConfig, Table, UNetConfig};

/// A table being written, with the shorthands for layers.
#[derive(Default)]
struct Rows(Table);

impl Rows {
    fn row(&mut self, name: impl Into<String>, dims: &[usize]) {
        self.0.push((name.into(), dims.to_vec()));
    }

    /// `weight` and `bias [out]` of a layer.
    fn layer(&mut self, name: &str, weight: &[usize], out: usize) {
        self.row(format!("{name}.weight"), weight);
        self.row(format!("{name}.bias"), &[out]);
    }

    fn linear(&mut self, name: &str, out: usize, input: usize) {
        self.layer(name, &[out, input], out);
    }

    fn conv(&mut self, name: &str, out: usize, input: usize, side: usize) {
        self.layer(name, &[out, input, side, side], out);
    }

    /// Transposed convolutions store their input channels first.
    fn conv_transpose(&mut self, name: &str, out: usize, input: usize, side: usize) {
        self.layer(name, &[input, out, side, side], out);
    }

    fn norm(&mut self, name: &str, c: usize) {
        self.layer(name, &[c], c);
    }

    fn batch_norm(&mut self, name: &str, c: usize) {
        self.norm(name, c);
        self.row(format!("{name}.running_mean"), &[c]);
        self.row(format!("{name}.running_var"), &[c]);
    }
}

/// The tensors of a UNet in the `diffusers` scheme, in execution order.
///
/// ```
/// use cascade_rt::net::config::{UNetConfig, tensors};
/// let table = tensors(&UNetConfig::default());
/// assert_eq!(table[0], ("clip_txt_pooled_mapper.weight".to_owned(), vec![8192, 1280]));
/// ```
pub fn tensors(config: &UNetConfig) -> Table {
    let UNetConfig { conditioning_dim: cc, clip_seq, patch_size: p, .. } = *config;
    let levels = config.levels();
    let width = &config.block_out_channels;
    let mut t = Rows::default();

    if let Some(text) = config.clip_text_in_channels {
        t.linear("clip_txt_mapper", cc, text);
    }
    t.linear("clip_txt_pooled_mapper", cc * clip_seq, config.clip_text_pooled_in_channels);
    if let Some(image) = config.clip_image_in_channels {
        t.linear("clip_img_mapper", cc * clip_seq, image);
    }
    for (name, channels) in
        [("effnet_mapper", config.effnet_in_channels), ("pixels_mapper", config.pixel_mapper_in_channels)]
    {
        if let Some(channels) = channels {
            t.conv(&format!("{name}.0"), 4 * width[0], channels, 1);
            t.conv(&format!("{name}.2"), width[0], 4 * width[0], 1);
        }
    }
    t.conv("embedding.1", width[0], config.in_channels * p * p, 1);

    for i in 0..levels {
        if i > 0 {
            match config.switch_level {
                Some(_) => t.conv(&format!("down_downscalers.{i}.1.blocks.0"), width[i], width[i - 1], 1),
                None => t.conv(&format!("down_downscalers.{i}.1"), width[i], width[i - 1], 2),
            }
        }
        blocks(&mut t, config, &format!("down_blocks.{i}"), i, config.down_num_layers_per_block[i], 0);
        for r in 1..config.down_blocks_repeat_mappers[i] {
            t.conv(&format!("down_repeat_mappers.{i}.{}", r - 1), width[i], width[i], 1);
        }
    }
    for u in 0..levels {
        let i = levels - 1 - u;
        // Levels above the deepest receive a skip of their own width.
        let skip = if u > 0 { width[i] } else { 0 };
        blocks(&mut t, config, &format!("up_blocks.{u}"), i, config.up_num_layers_per_block[u], skip);
        for r in 1..config.up_blocks_repeat_mappers[u] {
            t.conv(&format!("up_repeat_mappers.{u}.{}", r - 1), width[i], width[i], 1);
        }
        if i > 0 {
            match config.switch_level {
                Some(_) => t.conv(&format!("up_upscalers.{u}.1.blocks.1"), width[i - 1], width[i], 1),
                None => t.conv_transpose(&format!("up_upscalers.{u}.1"), width[i - 1], width[i], 2),
            }
        }
    }
    t.conv("clf.1", config.out_channels * p * p, width[0], 1);
    t.0
}

/// `layers` layers of level `i`; the first residual block takes `skip` channels more.
fn blocks(t: &mut Rows, config: &UNetConfig, prefix: &str, i: usize, layers: usize, skip: usize) {
    let c = config.block_out_channels[i];
    let kinds = &config.block_types_per_layer[i];
    for (m, kind) in std::iter::repeat_n(kinds, layers).flatten().enumerate() {
        let p = format!("{prefix}.{m}");
        match kind {
            Block::Res => {
                let skip = if m == 0 { skip } else { 0 };
                t.conv(&format!("{p}.depthwise"), c, 1, config.kernel_size);
                t.linear(&format!("{p}.channelwise.0"), 4 * c, c + skip);
                t.row(format!("{p}.channelwise.2.gamma"), &[1, 1, 1, 4 * c]);
                t.row(format!("{p}.channelwise.2.beta"), &[1, 1, 1, 4 * c]);
                t.linear(&format!("{p}.channelwise.4"), c, 4 * c);
            }
            Block::Timestep => {
                t.linear(&format!("{p}.mapper"), 2 * c, config.timestep_ratio_embedding_dim);
                for condition in &config.timestep_conditioning_type {
                    t.linear(&format!("{p}.mapper_{condition}"), 2 * c, config.timestep_ratio_embedding_dim);
                }
            }
            Block::Attn => {
                t.linear(&format!("{p}.kv_mapper.1"), c, config.conditioning_dim);
                for name in ["to_q", "to_k", "to_v", "to_out.0"] {
                    t.linear(&format!("{p}.attention.{name}"), c, c);
                }
            }
        }
    }
}

/// The tensors of Stage A in the `diffusers` scheme: encoder, codebook, decoder.
/// Without the batch norm's step counter, which is no weight.
pub fn stage_a_tensors(config: &StageAConfig) -> Table {
    let shuffled = |channels| channels * config.up_down_scale_factor.pow(2);
    let levels = config.levels;
    let width = |i: usize| config.width(i);
    let mut t = Rows::default();

    t.conv("in_block.1", width(0), shuffled(config.in_channels), 1);
    for i in 0..levels {
        if i > 0 {
            t.conv(&format!("down_blocks.{}", 2 * i - 1), width(i), width(i - 1), 4);
        }
        mixing_block(&mut t, &format!("down_blocks.{}", 2 * i), width(i));
    }
    let last = 2 * levels - 1;
    t.row(format!("down_blocks.{last}.0.weight"), &[config.latent_channels, width(levels - 1), 1, 1]);
    t.batch_norm(&format!("down_blocks.{last}.1"), config.latent_channels);
    t.row("vquantizer.embedding.weight", &[config.num_vq_embeddings, config.latent_channels]);

    t.conv("up_blocks.0.0", width(levels - 1), config.latent_channels, 1);
    let mut at = 1;
    for i in (0..levels).rev() {
        let repeats = if i == levels - 1 { config.bottleneck_blocks } else { 1 };
        for _ in 0..repeats {
            mixing_block(&mut t, &format!("up_blocks.{at}"), width(i));
            at += 1;
        }
        if i > 0 {
            t.conv_transpose(&format!("up_blocks.{at}"), width(i - 1), width(i), 4);
            at += 1;
        }
    }
    t.conv("out_block.0", shuffled(config.out_channels), width(0), 1);
    t.0
}

fn mixing_block(t: &mut Rows, p: &str, c: usize) {
    t.row(format!("{p}.gammas"), &[6]);
    t.conv(&format!("{p}.depthwise.1"), c, 1, 3);
    t.linear(&format!("{p}.channelwise.0"), 4 * c, c);
    t.linear(&format!("{p}.channelwise.2"), c, 4 * c);
}

/// The tensors of the CLIP text tower.
pub fn clip_text_tensors(config: &ClipTextConfig) -> Table {
    let c = config.hidden_size;
    let mut t = Rows::default();
    t.row("text_model.embeddings.token_embedding.weight", &[config.vocab_size, c]);
    t.row("text_model.embeddings.position_embedding.weight", &[config.max_position_embeddings, c]);
    encoder(&mut t, "text_model", config.num_hidden_layers, c, config.intermediate_size);
    t.norm("text_model.final_layer_norm", c);
    t.row("text_projection.weight", &[config.projection_dim, c]);
    t.0
}

/// The tensors of the CLIP vision tower.
pub fn clip_vision_tensors(config: &ClipVisionConfig) -> Table {
    let c = config.hidden_size;
    let mut t = Rows::default();
    t.row("vision_model.embeddings.class_embedding", &[c]);
    t.row(
        "vision_model.embeddings.patch_embedding.weight",
        &[c, config.num_channels, config.patch_size, config.patch_size],
    );
    t.row("vision_model.embeddings.position_embedding.weight", &[config.patches() + 1, c]);
    t.norm("vision_model.pre_layrnorm", c); // spelled so in the files
    encoder(&mut t, "vision_model", config.num_hidden_layers, c, config.intermediate_size);
    t.norm("vision_model.post_layernorm", c);
    t.row("visual_projection.weight", &[config.projection_dim, c]);
    t.0
}

fn encoder(t: &mut Rows, tower: &str, layers: usize, c: usize, hidden: usize) {
    for l in 0..layers {
        let p = format!("{tower}.encoder.layers.{l}");
        t.norm(&format!("{p}.layer_norm1"), c);
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            t.linear(&format!("{p}.self_attn.{name}"), c, c);
        }
        t.norm(&format!("{p}.layer_norm2"), c);
        t.linear(&format!("{p}.mlp.fc1"), hidden, c);
        t.linear(&format!("{p}.mlp.fc2"), c, hidden);
    }
}

/// What a layer of EfficientNetV2 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffnetBlock {
    /// `FusedMBConv`: a full convolution widens and mixes at once.
    Fused,
    /// `MBConv`: widened, mixed by channel, gated.
    Inverted,
}

/// Equal layers of EfficientNetV2, but for the stride of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffnetStage {
    /// What each layer is.
    pub block: EffnetBlock,
    /// Channels inside a layer, as a multiple of its input's.
    pub expand: usize,
    /// Of the first layer; 1 in the others.
    pub stride: usize,
    /// Channels of the result.
    pub width: usize,
    /// How many.
    pub layers: usize,
}

/// Stages 1 to 6 of EfficientNetV2-S. Before them a 3×3 convolution of stride 2
/// to 24 channels, after them a 1×1 convolution to 1280.
pub const EFFNET_STAGES: [EffnetStage; 6] = {
    use EffnetBlock::{Fused, Inverted};
    const fn stage(block: EffnetBlock, expand: usize, stride: usize, width: usize, layers: usize) -> EffnetStage {
        EffnetStage { block, expand, stride, width, layers }
    }
    [
        stage(Fused, 1, 1, 24, 2),
        stage(Fused, 4, 2, 48, 4),
        stage(Fused, 4, 2, 64, 4),
        stage(Inverted, 4, 2, 128, 6),
        stage(Inverted, 6, 1, 160, 9),
        stage(Inverted, 6, 2, 256, 15),
    ]
};

/// The tensors of the EfficientNet encoder, without the batch norms' step counters.
pub fn effnet_tensors() -> Table {
    let mut t = Rows::default();
    // A convolution without bias and its batch norm.
    let conv = |t: &mut Rows, name: &str, dims: [usize; 4]| {
        t.row(format!("{name}.0.weight"), &dims);
        t.batch_norm(&format!("{name}.1"), dims[0]);
    };
    conv(&mut t, "backbone.0", [24, 3, 3, 3]);
    let mut c = 24;
    for (stage, index) in EFFNET_STAGES.iter().zip(1..) {
        for layer in 0..stage.layers {
            let p = format!("backbone.{index}.{layer}.block");
            let (wide, to) = (stage.expand * c, stage.width);
            match stage.block {
                EffnetBlock::Fused if stage.expand == 1 => conv(&mut t, &format!("{p}.0"), [to, c, 3, 3]),
                EffnetBlock::Fused => {
                    conv(&mut t, &format!("{p}.0"), [wide, c, 3, 3]);
                    conv(&mut t, &format!("{p}.1"), [to, wide, 1, 1]);
                }
                EffnetBlock::Inverted => {
                    conv(&mut t, &format!("{p}.0"), [wide, c, 1, 1]);
                    conv(&mut t, &format!("{p}.1"), [wide, 1, 3, 3]);
                    t.conv(&format!("{p}.2.fc1"), c / 4, wide, 1);
                    t.conv(&format!("{p}.2.fc2"), wide, c / 4, 1);
                    conv(&mut t, &format!("{p}.3"), [to, wide, 1, 1]);
                }
            }
            c = to;
        }
    }
    conv(&mut t, &format!("backbone.{}", EFFNET_STAGES.len() + 1), [1280, c, 1, 1]);
    t.row("mapper.0.weight", &[16, 1280, 1, 1]);
    t.row("mapper.1.running_mean", &[16]);
    t.row("mapper.1.running_var", &[16]);
    t.0
}

/// A convolution of the previewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviewerConv {
    /// 1×1.
    Pixel,
    /// 3×3, padded.
    Window,
    /// Transposed 2×2 of stride 2: doubles the size.
    Double,
}

/// The previewer's units, and the channels that each makes. After them a 1×1
/// convolution to RGB.
pub const PREVIEWER_UNITS: [(PreviewerConv, usize); 8] = {
    use PreviewerConv::{Double, Pixel, Window};
    [
        (Pixel, 512),
        (Window, 512),
        (Double, 256),
        (Window, 256),
        (Double, 128),
        (Window, 128),
        (Double, 128),
        (Window, 128),
    ]
};

/// The tensors of the previewer, without the batch norms' step counters.
pub fn previewer_tensors() -> Table {
    let mut t = Rows::default();
    let mut c = 16;
    for (i, (conv, to)) in PREVIEWER_UNITS.into_iter().enumerate() {
        let name = format!("blocks.{}", 3 * i);
        match conv {
            PreviewerConv::Pixel => t.conv(&name, to, c, 1),
            PreviewerConv::Window => t.conv(&name, to, c, 3),
            PreviewerConv::Double => t.conv_transpose(&name, to, c, 2),
        }
        t.batch_norm(&format!("blocks.{}", 3 * i + 2), to);
        c = to;
    }
    t.conv(&format!("blocks.{}", 3 * PREVIEWER_UNITS.len()), 3, c, 1);
    t.0
}
