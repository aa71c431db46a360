//! ControlNets: what they add to the input of Stage C's residual blocks, which depends on the hint alone.

use super::config::{Backbone, ControlNetConfig};
use super::{Net, With, effnet, slot};
use crate::error::Result;
use crate::ops::{Activation, Add, Conv2d, Function, LeakyRelu};
use crate::plan::Slot;

/// The epsilon of layer norms.
const EPS: f32 = 1e-5;

/// `hint [n, h, w, c]` → for each projection what it adds, `[n, h', w', channels]`; with an EfficientNet, `h'` is `⌈h/32⌉`.
///
/// Source: `ControlNet` of StableCascade.
pub fn additions(net: &mut Net<'_>, config: &ControlNetConfig, hint: Slot) -> Result<Vec<Slot>> {
    let features = features(&mut net.scope("backbone"), config, hint)?;
    let without_bias = With { bias: false, ..With::default() };
    let projection = |k: usize| {
        let mut net = net.scope(format!("projections.{k}"));
        let x = net.pointwise("0", features, config.features, without_bias)?;
        let x = leaky_relu(&mut net, "1", x)?;
        net.pointwise("2", x, config.channels, without_bias)
    };
    (0..config.projections).map(projection).collect()
}

fn features(net: &mut Net<'_>, config: &ControlNetConfig, hint: Slot) -> Result<Slot> {
    match config.backbone {
        // Only a picture keeps the padding of the first convolution.
        Backbone::Effnet(ref effnet) => effnet::backbone(net, effnet, hint, usize::from(hint.shape.c == 3)),
        Backbone::Simple => {
            let x = conv(net, "0", hint, 4 * hint.shape.c)?;
            let x = leaky_relu(net, "1", x)?;
            conv(net, "2", x, hint.shape.c)
        }
        Backbone::Large { hidden, width, blocks } => {
            let x = net.pointwise("0", hint, hidden, With::default())?;
            let x = leaky_relu(net, "1", x)?;
            let mut x = net.pointwise("2", x, width, With::default())?;
            for block in 3..3 + blocks {
                x = residual(&mut net.scope(format!("{block}.blocks")), x)?;
            }
            net.pointwise(&(3 + blocks).to_string(), x, config.features, With::default())
        }
    }
}

/// `x + conv(gelu(norm(conv(gelu(norm(x))))))`, where `x` is `[n, h, w, c]`.
fn residual(net: &mut Net<'_>, x: Slot) -> Result<Slot> {
    let mut y = x;
    for (norm, gelu, convolution) in [("0", "1", "2"), ("3", "4", "5")] {
        y = net.layer_norm_affine(norm, y, EPS)?;
        y = net.op(gelu, Activation { function: Function::GeluErf }, &[slot(y)])?;
        y = conv(net, convolution, y, x.shape.c)?;
    }
    net.op("add", Add, &[slot(y), slot(x)])
}

/// The 3×3 convolution `name` with padding: `[n, h, w, c]` → `[n, h, w, to]`.
fn conv(net: &mut Net<'_>, name: &str, x: Slot, to: usize) -> Result<Slot> {
    let weight = net.weight(&format!("{name}.weight"), &[to, x.shape.c, 3, 3])?;
    let bias = net.weight(&format!("{name}.bias"), &[to])?;
    net.op(name, Conv2d { stride: 1, padding: 1 }, &[slot(x), weight, bias])
}

fn leaky_relu(net: &mut Net<'_>, name: &str, x: Slot) -> Result<Slot> {
    net.op(name, LeakyRelu { slope: 0.2 }, &[slot(x)])
}
