//! The previewer, which decodes latents of Stage C to a small picture without Stages B and A.

use super::config::{PREVIEWER_UNITS, PreviewerConv};
use super::{Net, With, slot};
use crate::error::Result;
use crate::ops::{Activation, Conv2d, ConvTranspose2d, Function};
use crate::plan::Slot;

/// `z [n, h, w, 16]` → `[n, 8h, 8w, 3]`, nominally in `[0, 1]` but not clamped.
///
/// Each unit is a convolution, a GELU and a batch norm, in this unusual order.
///
/// Source: `Previewer` of StableCascade.
pub fn preview(net: &mut Net<'_>, z: Slot) -> Result<Slot> {
    let mut net = net.scope("blocks");
    let gelu = Activation { function: Function::GeluErf };
    let mut x = z;
    for (i, (conv, to)) in PREVIEWER_UNITS.into_iter().enumerate() {
        let from = x.shape.c;
        let name = (3 * i).to_string();
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        x = match conv {
            PreviewerConv::Pixel => net.linear(&name, x, to, With { function: gelu.function, ..With::default() })?,
            PreviewerConv::Window => {
                let inputs = [slot(x), net.weight(&weight, &[to, from, 3, 3])?, net.weight(&bias, &[to])?];
                let x = net.op(&name, Conv2d { stride: 1, padding: 1 }, &inputs)?;
                net.op(&name, gelu, &[slot(x)])?
            }
            PreviewerConv::Double => {
                let inputs = [slot(x), net.weight(&weight, &[from, to, 2, 2])?, net.weight(&bias, &[to])?];
                let x = net.op(&name, ConvTranspose2d { stride: 2, padding: 0 }, &inputs)?;
                net.op(&name, gelu, &[slot(x)])?
            }
        };
        x = net.batch_norm(&(3 * i + 2).to_string(), x, 1e-5, Function::Identity)?;
    }
    net.linear(&(3 * PREVIEWER_UNITS.len()).to_string(), x, 3, With::default())
}
