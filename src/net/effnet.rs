//! EfficientNetV2, which encodes pictures as latents of Stage C.

use super::config::{EffnetBackbone, EffnetConfig, Layer};
use super::{Net, With, slot};
use crate::error::Result;
use crate::ops::{Add, BatchNorm, Conv2d, DepthwiseConv, Function, Gate, Mean};
use crate::plan::Slot;

/// The epsilon of the backbone's batch norms.
const EPS: f32 = 1e-3;

/// The encoder: `x [n, h, w, 3]` → `[n, ⌈h/32⌉, ⌈w/32⌉, 16]`. The result has the scale of
/// Stage C's own latents.
///
/// The caller must normalise `x`: RGB from 0 to 1, then `(x − mean) / std` with ImageNet's
/// mean `0.485, 0.456, 0.406` and std `0.229, 0.224, 0.225`.
///
/// Source: `EfficientNetEncoder` of StableCascade; `efficientnet_v2_s` of torchvision.
pub fn encode(net: &mut Net<'_>, config: &EffnetConfig, x: Slot) -> Result<Slot> {
    let x = backbone(&mut net.scope("backbone"), &config.backbone, x, 1)?;
    let (mut mapper, channels) = (net.scope("mapper"), config.latent_channels);
    let x = mapper.pointwise("0", x, channels, With { bias: false, ..With::default() })?;
    let [mean, var] = ["1.running_mean", "1.running_var"].map(|name| mapper.weight(name, &[channels]));
    mapper.op("1", BatchNorm { eps: 1e-5, function: Function::Identity }, &[slot(x), mean?, var?, None, None])
}

/// The features of `x [n, h, w, c]`, `[n, ⌈h/32⌉, ⌈w/32⌉, head]`; a little less where the first convolution has a `padding`
/// of 0 instead of 1.
pub fn backbone(net: &mut Net<'_>, config: &EffnetBackbone, x: Slot, padding: usize) -> Result<Slot> {
    let mut stem = net.scope(0);
    let weight = stem.weight("0.weight", &[config.stem, x.shape.c, 3, 3])?;
    let x = stem.op("0", Conv2d { stride: 2, padding }, &[slot(x), weight, None])?;
    let mut x = stem.batch_norm("1", x, EPS, Function::Silu)?;
    for (i, (layers, stride)) in config.stages.iter().zip(EffnetBackbone::STRIDES).enumerate() {
        for (j, layer) in layers.iter().enumerate() {
            let stride = if j == 0 { stride } else { 1 };
            let mut net = net.scope(format!("{}.{j}.block", i + 1));
            let y = match *layer {
                Layer::Plain { width } => conv(&mut net.scope(0), x, width, 3, stride, Function::Silu)?,
                Layer::Fused { wide, width } => {
                    let y = conv(&mut net.scope(0), x, wide, 3, stride, Function::Silu)?;
                    conv(&mut net.scope(1), y, width, 1, 1, Function::Identity)?
                }
                Layer::Inverted { wide, squeeze, width } => inverted(&mut net, x, [wide, squeeze, width], stride)?,
            };
            x = if y.shape == x.shape { net.op("", Add, &[slot(y), slot(x)])? } else { y };
        }
    }
    conv(&mut net.scope(config.stages.len() + 1), x, config.head, 1, 1, Function::Silu)
}

/// `x [n, h, w, c]` → `[n, ⌈h/stride⌉, ⌈w/stride⌉, width]`: expansion to `wide` channels, depthwise
/// convolution, squeeze-and-excitation, projection.
///
/// Source: `MBConv`, without the residual.
fn inverted(net: &mut Net<'_>, x: Slot, [wide, squeeze, width]: [usize; 3], stride: usize) -> Result<Slot> {
    let mut y = conv(&mut net.scope(0), x, wide, 1, 1, Function::Silu)?;
    let weight = net.weight("1.0.weight", &[wide, 1, 3, 3])?;
    y = net.op("1.0", DepthwiseConv { stride }, &[slot(y), weight])?;
    y = net.batch_norm("1.1", y, EPS, Function::Silu)?;
    let s = net.op("2", Mean, &[slot(y)])?;
    let s = net.pointwise("2.fc1", s, squeeze, With { function: Function::Silu, ..With::default() })?;
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
