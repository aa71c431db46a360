//! The networks, each recorded as nodes of a plan.
//!
//! Field names are the checkpoints' keys, so that a search finds both sides.
//! Nothing here names a device.

pub mod blocks;
pub mod clip;
pub mod config;
pub mod effnet;
pub mod previewer;
pub mod stage_a;
pub mod unet;

use std::fmt::Display;

use crate::error::Result;
use crate::ops::{Affine, BatchNorm, Function, LayerNorm, Linear, Op, PixelUnshuffle};
use crate::plan::{Recorder, Slot, Source};
use crate::tensor::Weight;
use crate::weights::Checkpoint;

/// A place in a network: where nodes are recorded, and where their weights come from.
#[derive(Debug)]
pub struct Net<'a> {
    /// The plan being recorded.
    pub rec: &'a mut Recorder,
    weights: &'a Checkpoint,
    prefix: String,
}

/// What rides on a linear layer; see [`Linear`].
#[derive(Debug, Clone, Copy)]
pub struct With<'a> {
    /// Applied to the product.
    pub function: Function,
    /// Whether the checkpoint has a bias.
    pub bias: bool,
    /// Added after the function.
    pub residual: Option<Slot>,
    /// Factors of the input, and the name of the tensor added to it.
    pub scale: Option<(Slot, &'a str)>,
    /// Timestep conditioning of the result.
    pub modulation: Option<Modulation>,
}

impl Default for With<'_> {
    fn default() -> Self {
        Self { function: Function::Identity, bias: true, residual: None, scale: None, modulation: None }
    }
}

/// A timestep block's `a` and `b` for every step, and the counter of steps.
#[derive(Debug, Clone, Copy)]
pub struct Modulation {
    /// `[n or 1, 1, steps, 2c]`.
    pub table: Slot,
    /// `[1, 1, 1, 1]`, u32.
    pub counter: Slot,
}

/// An activation as an operand.
pub fn slot(slot: Slot) -> Option<Source> {
    Some(Source::Slot(slot))
}

impl<'a> Net<'a> {
    /// The root of a network.
    pub fn new(rec: &'a mut Recorder, weights: &'a Checkpoint) -> Self {
        Self { rec, weights, prefix: String::new() }
    }

    /// A part of the network: names are looked up below `name`.
    pub fn scope(&mut self, name: impl Display) -> Net<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Net { rec: self.rec, weights: self.weights, prefix }
    }

    /// The full name of `name` here.
    pub fn at(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether the checkpoint has a tensor of this name here.
    pub fn has(&self, name: &str) -> bool {
        self.weights.dims(&self.at(name)).is_some()
    }

    /// A learned tensor of these PyTorch dimensions.
    pub fn weight(&mut self, name: &str, dims: &[usize]) -> Result<Option<Source>> {
        let weight = self.weights.require(&self.at(name), dims)?;
        Ok(Some(self.rec.weight(weight)))
    }

    /// Several learned tensors of these dimensions, stacked by rows.
    fn stacked(&mut self, names: &[&str], suffix: &str, dims: &[usize]) -> Result<Option<Source>> {
        let parts = names.iter().map(|name| self.weights.require(&self.at(&format!("{name}.{suffix}")), dims));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(Some(self.rec.weight(Weight::stack(&parts))))
    }

    /// Any op; `name` says where in the network.
    pub fn op(&mut self, name: &str, op: impl Into<Op>, inputs: &[Option<Source>]) -> Result<Slot> {
        let at = self.at(name);
        self.rec.node(at.trim_end_matches('.'), op, inputs)
    }

    /// `name.{weight,bias}` applied to `x [n, h, w, k]` → `[n, h, w, o]`.
    pub fn linear(&mut self, name: &str, x: Slot, o: usize, with: With<'_>) -> Result<Slot> {
        self.linears("", &[name], x, o, with)
    }

    /// Linear layers `scope.names[..]`, each of `o` outputs, side by side → `[n, h, w, o·names]`.
    pub fn linears(&mut self, scope: &str, names: &[&str], x: Slot, o: usize, with: With<'_>) -> Result<Slot> {
        let full: Vec<String> = names.iter().map(|n| format!("{scope}{n}")).collect();
        let full: Vec<&str> = full.iter().map(String::as_str).collect();
        let weight = self.stacked(&full, "weight", &[o, x.shape.c])?;
        let bias = if with.bias { self.stacked(&full, "bias", &[o])? } else { None };
        let shift = with.scale.map(|(_, shift)| self.weight(shift, &[x.shape.c])).transpose()?.flatten();
        let inputs = [
            slot(x),
            weight,
            bias,
            with.residual.and_then(slot),
            with.scale.and_then(|(scale, _)| slot(scale)),
            shift,
            with.modulation.and_then(|m| slot(m.table)),
            with.modulation.and_then(|m| slot(m.counter)),
        ];
        self.op(full[0], Linear { function: with.function }, &inputs)
    }

    /// The convolution `name.{weight,bias}` of windows side by side, `patch` pixels a side:
    /// `x [n, h·patch, w·patch, c]` → `[n, h, w, o]`. It is a linear layer on patches, whose pixels lie as its weight has them.
    pub fn patches(&mut self, name: &str, x: Slot, patch: usize, o: usize, bias: bool) -> Result<Slot> {
        let weight = self.weights.require(&self.at(&format!("{name}.weight")), &[o, x.shape.c, patch, patch])?;
        let weight = self.rec.weight(weight.reshape(&[o, x.shape.c * patch * patch]));
        let bias = if bias { self.weight(&format!("{name}.bias"), &[o])? } else { None };
        let x = self.op(name, PixelUnshuffle { patch }, &[slot(x)])?;
        let inputs = [slot(x), Some(weight), bias, None, None, None, None, None];
        self.op(name, Linear { function: Function::Identity }, &inputs)
    }

    /// Layer norm without affine.
    pub fn layer_norm(&mut self, name: &str, x: Slot, eps: f32) -> Result<Slot> {
        self.op(name, LayerNorm { eps, affine: Affine::None }, &[slot(x), None, None])
    }

    /// Layer norm with `name.{weight,bias}`.
    pub fn layer_norm_affine(&mut self, name: &str, x: Slot, eps: f32) -> Result<Slot> {
        let weight = self.weight(&format!("{name}.weight"), &[x.shape.c])?;
        let bias = self.weight(&format!("{name}.bias"), &[x.shape.c])?;
        self.op(name, LayerNorm { eps, affine: Affine::Channels }, &[slot(x), weight, bias])
    }

    /// Batch norm with `name.{running_mean,running_var,weight,bias}`, then `function`.
    pub fn batch_norm(&mut self, name: &str, x: Slot, eps: f32, function: Function) -> Result<Slot> {
        let mut inputs = vec![slot(x)];
        for tensor in ["running_mean", "running_var", "weight", "bias"] {
            inputs.push(self.weight(&format!("{name}.{tensor}"), &[x.shape.c])?);
        }
        self.op(name, BatchNorm { eps, function }, &inputs)
    }
}
