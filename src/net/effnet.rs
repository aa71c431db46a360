//! EfficientNetV2-S, which encodes pictures as latents of Stage C.

use super::{Net, With, slot};
use crate::error::Result;
use crate::ops::{Add, BatchNorm, Conv2d, DepthwiseConv, Function, Gate, Mean};
use crate::plan::Slot;

/// The epsilon of the backbone's batch norms.
const EPS: f32 = 1e-3;

/// The kind of a layer of EfficientNetV2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `FusedMBConv`: a 3×3 convolution that also expands the channels, then a projection.
    Fused,
    /// `MBConv`: expansion, depthwise convolution, squeeze-and-excitation, projection.
    Inverted,
}

/// A sequence of layers of EfficientNetV2 that are equal except for the stride of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stage {
    /// The kind of the layers.
    block: Kind,
    /// Channels inside a layer, as a multiple of those of its input.
    expand: usize,
    /// Stride of the first layer; the others have a stride of 1.
    stride: usize,
    /// Channels of the result.
    width: usize,
    /// Number of layers.
    layers: usize,
}

/// Stages 1 to 6 of EfficientNetV2-S. The backbone also has a 3×3 convolution of stride 2
/// to 24 channels before them, and a 1×1 convolution to 1280 channels after them.
const STAGES: [Stage; 6] = {
    use Kind::{Fused, Inverted};
    const fn stage(block: Kind, expand: usize, stride: usize, width: usize, layers: usize) -> Stage {
        Stage { block, expand, stride, width, layers }
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

/// The encoder: `x [n, h, w, 3]` → `[n, ⌈h/32⌉, ⌈w/32⌉, 16]`. The result has the scale of
/// Stage C's own latents.
///
/// The caller must normalise `x`: RGB from 0 to 1, then `(x − mean) / std` with mean
/// `0.485, 0.456, 0.406` and std `0.229, 0.224, 0.225`.
///
/// Source: `EfficientNetEncoder` of StableCascade; `efficientnet_v2_s` of torchvision.
pub fn encode(net: &mut Net<'_>, x: Slot) -> Result<Slot> {
    let mut backbone = net.scope("backbone");
    let mut x = conv(&mut backbone.scope(0), x, 24, 3, 2, Function::Silu)?;
    for (stage, index) in STAGES.iter().zip(1..) {
        for layer in 0..stage.layers {
            let stride = if layer == 0 { stage.stride } else { 1 };
            let mut net = backbone.scope(format!("{index}.{layer}.block"));
            let y = match stage.block {
                Kind::Fused => fused_block(&mut net, x, stage.expand, stage.width, stride)?,
                Kind::Inverted => inverted_block(&mut net, x, stage.expand, stage.width, stride)?,
            };
            x = if y.shape == x.shape { net.op("", Add, &[slot(y), slot(x)])? } else { y };
        }
    }
    x = conv(&mut backbone.scope(STAGES.len() + 1), x, 1280, 1, 1, Function::Silu)?;
    let mut mapper = net.scope("mapper");
    x = mapper.pointwise("0", x, 16, With { bias: false, ..With::default() })?;
    let [mean, var] = ["1.running_mean", "1.running_var"].map(|name| mapper.weight(name, &[16]));
    mapper.op("1", BatchNorm { eps: 1e-5, function: Function::Identity }, &[slot(x), mean?, var?, None, None])
}

/// `x [n, h, w, c]` → `[n, ⌈h/stride⌉, ⌈w/stride⌉, width]`: a 3×3 convolution to
/// `expand·c` channels, then a 1×1 convolution; if `expand` is 1, only a 3×3 convolution.
///
/// Source: `FusedMBConv`, without the residual.
fn fused_block(net: &mut Net<'_>, x: Slot, expand: usize, width: usize, stride: usize) -> Result<Slot> {
    if expand == 1 {
        return conv(&mut net.scope(0), x, width, 3, stride, Function::Silu);
    }
    let y = conv(&mut net.scope(0), x, expand * x.shape.c, 3, stride, Function::Silu)?;
    conv(&mut net.scope(1), y, width, 1, 1, Function::Identity)
}

/// `x [n, h, w, c]` → `[n, ⌈h/stride⌉, ⌈w/stride⌉, width]`: expansion, depthwise
/// convolution, squeeze-and-excitation, projection.
///
/// Source: `MBConv`, without the residual.
fn inverted_block(net: &mut Net<'_>, x: Slot, expand: usize, width: usize, stride: usize) -> Result<Slot> {
    let (c, wide) = (x.shape.c, expand * x.shape.c);
    let mut y = conv(&mut net.scope(0), x, wide, 1, 1, Function::Silu)?;
    let weight = net.weight("1.0.weight", &[wide, 1, 3, 3])?;
    y = net.op("1.0", DepthwiseConv { stride }, &[slot(y), weight])?;
    y = net.batch_norm("1.1", y, EPS, Function::Silu)?;
    // The width of the squeeze is a quarter of the block's input channels, not of the expanded ones.
    let s = net.op("2", Mean, &[slot(y)])?;
    let s = net.pointwise("2.fc1", s, c / 4, With { function: Function::Silu, ..With::default() })?;
    let s = net.pointwise("2.fc2", s, wide, With::default())?;
    y = net.op("2", Gate, &[slot(y), slot(s)])?;
    conv(&mut net.scope(3), y, width, 1, 1, Function::Identity)
}

/// A convolution without bias, batch norm, and an activation function. Weights: `0.weight`, `1.*`.
fn conv(net: &mut Net<'_>, x: Slot, to: usize, kernel_size: usize, stride: usize, function: Function) -> Result<Slot> {
    let y = if kernel_size == 1 {
        net.pointwise("0", x, to, With { bias: false, ..With::default() })?
    } else {
        let weight = net.weight("0.weight", &[to, x.shape.c, kernel_size, kernel_size])?;
        net.op("0", Conv2d { stride, padding: kernel_size / 2 }, &[slot(x), weight, None])?
    };
    net.batch_norm("1", y, EPS, function)
}
