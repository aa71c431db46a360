//! The previewer, which decodes latents of Stage C to a small picture without Stages B and A.

use super::config::PreviewerConfig;
use super::{Net, With, slot};
use crate::error::Result;
use crate::ops::{Activation, Conv2d, ConvTranspose2d, Function, PixelShuffle};
use crate::plan::Slot;

/// A convolution of the previewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conv {
    /// 1×1.
    Pixel,
    /// 3×3 with padding.
    Square,
    /// Transposed 2×2 with stride 2, which doubles height and width.
    Double,
}

/// The previewer's units with their numbers of output channels. A 1×1 convolution to RGB follows them.
const UNITS: [(Conv, usize); 8] = {
    use Conv::{Double, Pixel, Square};
    [
        (Pixel, 512),
        (Square, 512),
        (Double, 256),
        (Square, 256),
        (Double, 128),
        (Square, 128),
        (Double, 128),
        (Square, 128),
    ]
};

/// `z [n, h, w, c]` → `[n, p·h, p·w, 3]`, nominally in `[0, 1]` but not clamped; `p` is 8 in the published network.
pub fn preview(net: &mut Net<'_>, config: PreviewerConfig, z: Slot) -> Result<Slot> {
    match config {
        PreviewerConfig::Convolutions => convolutions(net, z),
        PreviewerConfig::Linear { patch, .. } => {
            let x = net.pointwise(PreviewerConfig::LINEAR, z, 3 * patch * patch, With::default())?;
            net.op(PreviewerConfig::LINEAR, PixelShuffle { patch }, &[slot(x)])
        }
    }
}

/// `z [n, h, w, 16]` → `[n, 8h, 8w, 3]`. Each unit is a convolution, a GELU and a batch norm, in this unusual order.
///
/// Source: `Previewer` of StableCascade.
fn convolutions(net: &mut Net<'_>, z: Slot) -> Result<Slot> {
    let mut net = net.scope("blocks");
    let gelu = Activation { function: Function::GeluErf };
    let mut x = z;
    for (i, (conv, to)) in UNITS.into_iter().enumerate() {
        let from = x.shape.c;
        let name = (3 * i).to_string();
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        x = match conv {
            Conv::Pixel => net.pointwise(&name, x, to, With { function: gelu.function, ..With::default() })?,
            Conv::Square => {
                let inputs = [slot(x), net.weight(&weight, &[to, from, 3, 3])?, net.weight(&bias, &[to])?];
                let x = net.op(&name, Conv2d { stride: 1, padding: 1 }, &inputs)?;
                net.op(&name, gelu, &[slot(x)])?
            }
            Conv::Double => {
                let inputs = [slot(x), net.weight(&weight, &[from, to, 2, 2])?, net.weight(&bias, &[to])?];
                let x = net.op(&name, ConvTranspose2d { stride: 2, padding: 0 }, &inputs)?;
                net.op(&name, gelu, &[slot(x)])?
            }
        };
        x = net.batch_norm(&(3 * i + 2).to_string(), x, 1e-5, Function::Identity)?;
    }
    net.pointwise(&(3 * UNITS.len()).to_string(), x, 3, With::default())
}
