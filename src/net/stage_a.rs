//! Stage A: the convolutional autoencoder whose latents Stage B generates.

use super::config::StageAConfig;
use super::{Net, With, slot};
use crate::error::Result;
use crate::ops::{
    Affine, Conv2d, ConvTranspose2d, DepthwiseResidual, FeedForward, Function, LayerNorm, NearestCode, PixelShuffle,
    PixelUnshuffle,
};
use crate::plan::Slot;

const EPS: f32 = 1e-6;

/// Decodes latents to pictures.
///
/// `z [n, h, w, 4]`, which the caller has multiplied by the scale factor → `[n, 4h, 4w, 3]`, nominally in
/// `[0, 1]` but not clamped. With `quantise`, each pixel of `z` is first replaced by the nearest code of the codebook.
///
/// Source: `PaellaVQModel.decode`.
pub fn decode(net: &mut Net<'_>, config: &StageAConfig, z: Slot, quantise: bool) -> Result<Slot> {
    let mut x = z;
    if quantise {
        let codes = net.weight("vquantizer.embedding.weight", &[config.num_vq_embeddings, z.shape.c])?;
        x = net.op("vquantizer", NearestCode, &[slot(x), codes])?;
    }
    x = net.pointwise("up_blocks.0.0", x, config.width(config.levels - 1), With::default())?;
    let mut index = 1;
    for level in (0..config.levels).rev() {
        let blocks = if level + 1 == config.levels { config.bottleneck_blocks } else { 1 };
        for _ in 0..blocks {
            x = mixing_block(&mut net.scope(format!("up_blocks.{index}")), x)?;
            index += 1;
        }
        if level > 0 {
            let name = format!("up_blocks.{index}");
            let to = config.width(level - 1);
            let weight = net.weight(&format!("{name}.weight"), &[x.shape.c, to, 4, 4])?;
            let bias = net.weight(&format!("{name}.bias"), &[to])?;
            x = net.op(&name, ConvTranspose2d { stride: 2, padding: 1 }, &[slot(x), weight, bias])?;
            index += 1;
        }
    }
    let patch = config.up_down_scale_factor;
    x = net.pointwise("out_block.0", x, config.out_channels * patch * patch, With::default())?;
    net.op("out_block.1", PixelShuffle { patch }, &[slot(x)])
}

/// Encodes pictures as latents, without dividing by the scale factor.
///
/// `x [n, h, w, 3]` in `[0, 1]`, with height and width multiples of 4 → `[n, h/4, w/4, 4]`.
///
/// Source: `PaellaVQModel.encode`, without quantisation.
pub fn encode(net: &mut Net<'_>, config: &StageAConfig, x: Slot) -> Result<Slot> {
    let patch = config.up_down_scale_factor;
    let mut x = net.op("in_block.0", PixelUnshuffle { patch }, &[slot(x)])?;
    x = net.pointwise("in_block.1", x, config.width(0), With::default())?;
    let mut index = 0;
    for level in 0..config.levels {
        if level > 0 {
            let name = format!("down_blocks.{index}");
            let to = config.width(level);
            let weight = net.weight(&format!("{name}.weight"), &[to, x.shape.c, 4, 4])?;
            let bias = net.weight(&format!("{name}.bias"), &[to])?;
            x = net.op(&name, Conv2d { stride: 2, padding: 1 }, &[slot(x), weight, bias])?;
            index += 1;
        }
        x = mixing_block(&mut net.scope(format!("down_blocks.{index}")), x)?;
        index += 1;
    }
    let mut net = net.scope(format!("down_blocks.{index}"));
    let c = config.latent_channels;
    x = net.pointwise("0", x, c, With { bias: false, ..With::default() })?;
    net.batch_norm("1", x, 1e-5, Function::Identity)
}

/// Residual block: a depthwise convolution, then a feed-forward layer, each with a residual that is scaled
/// by the block's gammas. 3 nodes.
///
/// Source: `MixingResidualBlock`.
fn mixing_block(net: &mut Net<'_>, x: Slot) -> Result<Slot> {
    let c = x.shape.c;
    let gammas = net.weight("gammas", &[6])?;
    let t = net.op("norm1", LayerNorm { eps: EPS, affine: Affine::Gammas }, &[slot(x), gammas, None])?;
    let weight = net.weight("depthwise.1.weight", &[c, 1, 3, 3])?;
    let bias = net.weight("depthwise.1.bias", &[c])?;
    let x = net.op("depthwise.1", DepthwiseResidual, &[slot(x), slot(t), weight, bias, gammas])?;
    let mut inputs = vec![slot(x), gammas];
    for (name, dims) in
        [("0.weight", &[4 * c, c][..]), ("0.bias", &[4 * c]), ("2.weight", &[c, 4 * c]), ("2.bias", &[c])]
    {
        inputs.push(net.weight(&format!("channelwise.{name}"), dims)?);
    }
    net.op("channelwise", FeedForward { eps: EPS }, &inputs)
}
