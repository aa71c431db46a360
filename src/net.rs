//! The networks. Each function records the nodes of a network, or part of one, in a plan.
//!
//! Names are those of the checkpoints' tensors and configurations, so that a text search finds both.
//! Nothing here depends on a device.

pub mod blocks;
pub mod clip;
pub mod config;
pub mod controlnet;
pub mod effnet;
pub mod previewer;
pub mod stage_a;
pub mod tensors;
pub mod unet;

use std::cell::RefCell;
use std::fmt::Display;

use crate::error::Result;
use crate::ops::{Activation, Add, Affine, BatchNorm, Function, LayerNorm, Linear, Modulate, Op, PixelUnshuffle};
use crate::plan::{Recorder, Slot, Source};
use crate::tensor::{Weight, shape_of_dims};
use crate::weights::{Checkpoint, LowRank};
use tensors::Listing;

/// A scope of a network: the plan in which nodes are recorded, the checkpoint that has their weights, and a
/// prefix for tensor names.
#[derive(Debug)]
pub struct Net<'a> {
    /// The plan being recorded.
    pub rec: &'a mut Recorder,
    tensors: Tensors<'a>,
    prefix: String,
}

/// Where a network's tensors come from.
#[derive(Debug, Clone, Copy)]
enum Tensors<'a> {
    /// From a checkpoint, where they are read in place.
    Read(&'a Checkpoint),
    /// A dry run, which only lists the tensors that the network requests; its plan is discarded. With a checkpoint,
    /// checks that it has these tensors; the text says where the dimensions come from, for messages.
    Listed(&'a RefCell<Listing>, Option<(&'a Checkpoint, &'a str)>),
}

/// The prologue and epilogue that are fused into a linear layer; see [`Linear`].
#[derive(Debug, Clone, Copy)]
pub struct With<'a> {
    /// Activation function, applied after the bias.
    pub function: Function,
    /// Whether the layer has a bias.
    pub bias: bool,
    /// Added after the activation function.
    pub residual: Option<Slot>,
    /// Scale of the input, and the name of the weight that is then added to it.
    pub scale: Option<(Slot, &'a str)>,
    /// Timestep conditioning, applied last.
    pub modulation: Option<Modulation>,
}

impl Default for With<'_> {
    fn default() -> Self {
        Self { function: Function::Identity, bias: true, residual: None, scale: None, modulation: None }
    }
}

/// The operands of a timestep block, `x·(1 + a) + b`.
#[derive(Debug, Clone, Copy)]
pub struct Modulation {
    /// `a` then `b` for every step, `[n or 1, 1, steps, 2c]`.
    pub table: Slot,
    /// The current step, `[1, 1, 1, 1]`, u32.
    pub counter: Slot,
}

/// An activation as an operand.
pub fn slot(slot: Slot) -> Option<Source> {
    Some(Source::Slot(slot))
}

impl<'a> Net<'a> {
    /// The outermost scope of a network.
    pub fn new(rec: &'a mut Recorder, weights: &'a Checkpoint) -> Self {
        Self { rec, tensors: Tensors::Read(weights), prefix: String::new() }
    }

    /// The outermost scope of a dry run, which lists the network's tensors.
    fn listing(rec: &'a mut Recorder, list: &'a RefCell<Listing>, of: Option<(&'a Checkpoint, &'a str)>) -> Self {
        Self { rec, tensors: Tensors::Listed(list, of), prefix: String::new() }
    }

    /// An inner scope, in which tensor names begin with `name`.
    pub fn scope(&mut self, name: impl Display) -> Net<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Net { rec: self.rec, tensors: self.tensors, prefix }
    }

    /// The full name of `name` in this scope.
    pub fn at(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A weight with these PyTorch dimensions.
    pub fn weight(&mut self, name: &str, dims: &[usize]) -> Result<Option<Source>> {
        self.weight_as(name, dims, dims)
    }

    /// A weight that has the dimensions `stored` in checkpoints, as an operand with the dimensions `dims`.
    pub fn weight_as(&mut self, name: &str, stored: &[usize], dims: &[usize]) -> Result<Option<Source>> {
        self.stacked("", &[name], "", stored, dims).map(Some)
    }

    /// Several weights as one operand, stacked by rows. Their names are `scope`, one of `names`, and `end`. Each has the
    /// dimensions `stored` in checkpoints, and contributes `dims` to the operand.
    fn stacked(&mut self, scope: &str, names: &[&str], end: &str, stored: &[usize], dims: &[usize]) -> Result<Source> {
        let mut names = names.iter().map(|name| format!("{}{scope}{name}{end}", self.prefix));
        match self.tensors {
            Tensors::Read(checkpoint) => {
                let parts = names.map(|name| Ok(checkpoint.require(&name, stored)?.reshape(dims)));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                Ok(self.rec.weight(Weight::stack(&parts)))
            }
            Tensors::Listed(list, of) => {
                let count = names.len();
                names.try_for_each(|name| {
                    of.map_or(Ok(()), |(checkpoint, source)| checkpoint.expect(&name, stored, source))?;
                    list.borrow_mut().note(name, stored);
                    Ok(())
                })?;
                let all = [&[count * dims[0]], &dims[1..]].concat();
                Ok(Source::Weight(0, shape_of_dims(&all)))
            }
        }
    }

    /// Records any op. `name` identifies the node in messages and profiles.
    pub fn op(&mut self, name: &str, op: impl Into<Op>, inputs: &[Option<Source>]) -> Result<Slot> {
        let at = self.at(name);
        self.rec.node(at.trim_end_matches('.'), op, inputs)
    }

    /// `name.{weight,bias}` applied to `x [n, h, w, k]` → `[n, h, w, o]`.
    pub fn linear(&mut self, name: &str, x: Slot, o: usize, with: With<'_>) -> Result<Slot> {
        self.linears("", &[name], x, o, with)
    }

    /// Several linear layers of the same input, `scope.names[..]` with `o` outputs each, recorded as one layer whose
    /// weights are stacked → `[n, h, w, o·names]`.
    pub fn linears(&mut self, scope: &str, names: &[&str], x: Slot, o: usize, with: With<'_>) -> Result<Slot> {
        self.layer(scope, names, &[o, x.shape.c], x, o, with)
    }

    /// The 1×1 convolution `name.{weight,bias}` of `x [n, h, w, k]` → `[n, h, w, o]`, recorded as a linear layer.
    pub fn pointwise(&mut self, name: &str, x: Slot, o: usize, with: With<'_>) -> Result<Slot> {
        self.layer("", &[name], &[o, x.shape.c, 1, 1], x, o, with)
    }

    /// The convolution `name.{weight,bias}` whose kernel size and stride are both `patch`:
    /// `x [n, h·patch, w·patch, c]` → `[n, h, w, o]`. It is recorded as a linear layer on patches, because
    /// [`PixelUnshuffle`] arranges the values of a patch in the order of the convolution's weight.
    pub fn patches(&mut self, name: &str, x: Slot, patch: usize, o: usize, bias: bool) -> Result<Slot> {
        let stored = [o, x.shape.c, patch, patch];
        let x = self.op(name, PixelUnshuffle { patch }, &[slot(x)])?;
        self.layer("", &[name], &stored, x, o, With { bias, ..With::default() })
    }

    /// Linear layers `scope.names[..]` recorded as one. Their weights have the dimensions `stored` in checkpoints.
    fn layer(
        &mut self,
        scope: &str,
        names: &[&str],
        stored: &[usize],
        x: Slot,
        o: usize,
        with: With<'_>,
    ) -> Result<Slot> {
        let k = x.shape.c;
        let (weight, changes) = self.stacked_apart(scope, names, stored, &[o, k])?;
        let bias = if with.bias { Some(self.stacked(scope, names, ".bias", &[o], &[o])?) } else { None };
        let shift = with.scale.map(|(_, shift)| self.weight_as(shift, &[1, 1, 1, k], &[k])).transpose()?.flatten();
        let scale = [with.scale.and_then(|(scale, _)| slot(scale)), shift];
        let at = format!("{scope}{}", names[0]);
        let linear = |net: &mut Self,
                      function,
                      [weight, bias]: [_; 2],
                      residual: Option<Slot>,
                      modulation: Option<Modulation>| {
            let table =
                [modulation.map(|m| m.table), modulation.map(|m| m.counter)].map(|operand| operand.and_then(slot));
            let inputs = [&[slot(x), weight, bias, residual.and_then(slot)][..], &scale, &table].concat();
            net.op(&at, Linear { function }, &inputs)
        };
        let main = [Some(weight), bias];
        let Some([down, up]) = changes else {
            return linear(self, with.function, main, with.residual, with.modulation);
        };

        // The change is computed beside the layer and reaches it as its residual.
        let low = linear(self, Function::Identity, [Some(down), None], None, None)?;
        let beside = |net: &mut Self, residual: Option<Slot>| {
            let inputs = [slot(low), Some(up), None, residual.and_then(slot), None, None, None, None];
            net.op(&format!("{at}.change"), Linear { function: Function::Identity }, &inputs)
        };
        if with.function == Function::Identity {
            let residual = beside(self, with.residual)?;
            return linear(self, Function::Identity, main, Some(residual), with.modulation);
        }
        // A residual is added after the activation function, and the change belongs before it.
        let change = beside(self, None)?;
        let mut y = linear(self, Function::Identity, main, Some(change), None)?;
        y = self.op(&at, Activation { function: with.function }, &[slot(y)])?;
        if let Some(residual) = with.residual {
            y = self.op(&at, Add, &[slot(y), slot(residual)])?;
        }
        match with.modulation {
            Some(m) => self.op(&at, Modulate, &[slot(y), slot(m.table), slot(m.counter)]),
            None => Ok(y),
        }
    }

    /// The weights of linear layers `scope.names[..]` as one operand `[o·names, k]`; and what adapters change of them, if it
    /// is of low rank, as two: `[r, k]` and `[o·names, r]`.
    fn stacked_apart(
        &mut self,
        scope: &str,
        names: &[&str],
        stored: &[usize],
        dims: &[usize; 2],
    ) -> Result<(Source, Option<[Source; 2]>)> {
        let Tensors::Read(checkpoint) = self.tensors else {
            return Ok((self.stacked(scope, names, ".weight", stored, dims)?, None));
        };
        let apart = |name: &&str| checkpoint.require_apart(&format!("{}{scope}{name}.weight", self.prefix), stored);
        let parts = names.iter().map(apart).collect::<Result<Vec<_>>>()?;
        let weights: Vec<_> = parts.iter().map(|(weight, _)| weight.clone().reshape(dims)).collect();
        let changes: Vec<&[LowRank]> = parts.iter().map(|(_, changes)| *changes).collect();
        let weight = self.rec.weight(Weight::stack(&weights));
        let changes = LowRank::beside(&changes, dims[0]);
        Ok((weight, changes.map(|factors| factors.map(|factor| self.rec.weight(factor)))))
    }

    /// Layer norm without an affine map.
    pub fn layer_norm(&mut self, name: &str, x: Slot, eps: f32) -> Result<Slot> {
        self.op(name, LayerNorm { eps, affine: Affine::None }, &[slot(x), None, None])
    }

    /// Layer norm with the affine map `name.{weight,bias}`.
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
