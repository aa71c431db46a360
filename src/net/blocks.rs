//! The blocks of Stages B and C.

use super::{Modulation, Net, With, slot};
use crate::error::Result;
use crate::ops::{Attention, Concat, DepthwiseNorm, Function, GrnScale, Modulate};
use crate::plan::Slot;

/// The epsilon of layer norms and of global response normalisation.
pub const EPS: f32 = 1e-6;

/// Residual block as in ConvNeXt V2; letter `C` in the published block tables.
///
/// `x [n, h, w, c]`, `skip [n, h, w, c_skip]` → `[n, h, w, c]`, in 4 nodes, or 5 with a
/// skip. Weights: `depthwise`, `channelwise.{0,2,4}`. If a timestep block follows, pass it as
/// `modulation`: it is then fused into the epilogue of the last linear layer.
///
/// Source: `SDCascadeResBlock`.
pub fn res_block(
    net: &mut Net<'_>,
    x: Slot,
    skip: Option<Slot>,
    kernel_size: usize,
    modulation: Option<Modulation>,
) -> Result<Slot> {
    let c = x.shape.c;
    let weight = net.weight("depthwise.weight", &[c, 1, kernel_size, kernel_size])?;
    let bias = net.weight("depthwise.bias", &[c])?;
    let mut y = net.op("depthwise", DepthwiseNorm { eps: EPS }, &[slot(x), weight, bias])?;
    if let Some(skip) = skip {
        y = net.op("skip", Concat::Channels, &[slot(y), slot(skip)])?;
    }
    y = net.linear("channelwise.0", y, 4 * c, With { function: Function::GeluErf, ..With::default() })?;
    let gamma = net.weight_as("channelwise.2.gamma", &[1, 1, 1, 4 * c], &[4 * c])?;
    let scale = net.op("channelwise.2", GrnScale { eps: EPS }, &[slot(y), gamma])?;
    let scale = Some((scale, "channelwise.2.beta"));
    net.linear("channelwise.4", y, c, With { scale, residual: Some(x), modulation, ..With::default() })
}

/// A timestep block that could not be fused into a residual block: `x·(1 + a) + b`; letter `T`.
///
/// Source: `SDCascadeTimestepBlock`.
pub fn timestep_block(net: &mut Net<'_>, x: Slot, modulation: Modulation) -> Result<Slot> {
    net.op("mapper", Modulate, &[slot(x), slot(modulation.table), slot(modulation.counter)])
}

/// A timestep block's `a` and `b` for every step: the sum of its mappers' outputs.
///
/// `times` are the embeddings of the timestep and of each extra condition, each `[m, 1, steps, d]`;
/// the result is `[m, 1, steps, 2c]`. Weights: `mapper`, `mapper_<condition>`.
pub fn timestep_table(net: &mut Net<'_>, times: &[Slot], conditions: &[String], c: usize) -> Result<Slot> {
    let mut table = net.linear("mapper", times[0], 2 * c, With::default())?;
    for (time, condition) in times[1..].iter().zip(conditions) {
        let with = With { residual: Some(table), ..With::default() };
        table = net.linear(&format!("mapper_{condition}"), *time, 2 * c, with)?;
    }
    Ok(table)
}

/// Attention block; letter `A`. The image's tokens attend to the context, and with `self_attn`
/// also to each other.
///
/// `x [n, h, w, c]`, `context_kv [n, 1, s, 2c]` → `[n, h, w, c]`, in 4 nodes.
/// Weights: `attention.{to_q,to_k,to_v,to_out.0}`.
///
/// Source: `SDCascadeAttnBlock`.
pub fn attn_block(net: &mut Net<'_>, x: Slot, context_kv: Slot, heads: usize, self_attn: bool) -> Result<Slot> {
    let c = x.shape.c;
    let normed = net.layer_norm("norm", x, EPS)?;
    let names: &[&str] = if self_attn { &["to_q", "to_k", "to_v"] } else { &["to_q"] };
    let qkv = net.linears("attention.", names, normed, c, With::default())?;
    let attention = Attention { heads, head_dim: c / heads, self_part: self_attn, causal: false };
    let y = net.op("attention", attention, &[slot(qkv), slot(context_kv), None])?;
    net.linear("attention.to_out.0", y, c, With { residual: Some(x), ..With::default() })
}

/// Keys and values of an attention block's context: `silu_context [n, 1, s, c_cond]`, to which
/// SiLU was already applied → `[n, 1, s, 2c]`. They depend only on the prompt, so they are computed once.
///
/// Weights: `kv_mapper.1`, `attention.{to_k,to_v}`.
pub fn context_kv(net: &mut Net<'_>, silu_context: Slot, c: usize) -> Result<Slot> {
    let kv = net.linear("kv_mapper.1", silu_context, c, With::default())?;
    net.linears("attention.", &["to_k", "to_v"], kv, c, With::default())
}
