//! What ControlNets add to Stage C, computed once for all batches of a run.

use std::sync::Arc;

use super::Pipeline;
use super::inputs::{HostTensor, wrong};
use super::run::not_finite;
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::net::unet::UNet;
use crate::net::{Net, controlnet, slot};
use crate::ops::{Element, Resample};
use crate::plan::Recorder;
use crate::shape::Shape;

/// What a ControlNet adds for one hint: values `[1, h, w, c]` for the input of each of some residual blocks of Stage C, given
/// by their number in the order of execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Additions(pub(super) Vec<(usize, HostTensor)>);

/// A ControlNet in a run.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    /// What it adds, from [`Pipeline::control`].
    pub additions: &'a Additions,
    /// What that is multiplied by, -10 to 10; 1 is as it was trained.
    pub strength: f32,
    /// From where to where in the run of Stage C it is added, as shares of the steps: `(0.0, 1.0)` is all of them. A step
    /// counts if it lies in there as a whole, as in `diffusers`.
    pub range: (f32, f32),
}

impl Additions {
    /// The residual blocks to whose input something is added.
    pub(super) fn blocks(&self) -> Vec<usize> {
        self.0.iter().map(|(block, _)| *block).collect()
    }
}

impl Control<'_> {
    /// What the additions are multiplied by at step `step` of `steps`.
    pub(super) fn strength_at(&self, step: usize, steps: usize) -> f32 {
        let share = |step: usize| step as f32 / steps as f32;
        if share(step) < self.range.0 || share(step + 1) > self.range.1 { 0.0 } else { self.strength }
    }

    /// Whether it fits a model and latents of Stage C, `[1, h, w, c]`.
    pub(super) fn check(&self, unet: &UNet<'_>, latents: Shape) -> Result<()> {
        let (from, to) = self.range;
        if !(-10.0..=10.0).contains(&self.strength) {
            return Err(wrong("control.strength", "a number from -10 to 10".into(), self.strength.to_string()));
        }
        if !(0.0 <= from && from <= to && to <= 1.0) {
            let expected = "two shares of the steps from 0 to 1, the lower one first";
            return Err(wrong("control.range", expected.into(), format!("{from},{to}")));
        }
        let blocks = unet.res_blocks(latents);
        for (block, values) in &self.additions.0 {
            let shape = blocks.get(*block).map(|(_, shape)| *shape);
            if shape != Some(values.shape) {
                let expected = shape.map_or("fewer residual blocks".into(), |shape| format!("additions {shape}"));
                return Err(wrong("control", expected, values.shape.to_string()));
            }
        }
        Ok(())
    }
}

impl Pipeline {
    /// What a ControlNet adds to Stage C for a `hint`, `[1, h, w, c]`, where Stage C's latents have this `size`, height and
    /// width, as [`Request::sizes`](crate::Request::sizes) has it. The hint may have any size; what comes of it is resized.
    ///
    /// # Errors
    /// [`Error::Request`] for a hint of other channels, [`Error::Model`] if the ControlNet is for another Stage C, and
    /// otherwise as [`embed_pictures`](Self::embed_pictures).
    pub fn control(
        &mut self,
        net: &ControlNet,
        hint: &HostTensor,
        size: (usize, usize),
        check_nodes: bool,
    ) -> Result<Additions> {
        const SMALLEST: usize = 3;
        let Shape { n, h, w, c } = hint.shape;
        let config = &net.config;
        if n != 1
            || c != config.hint_channels
            || h < SMALLEST
            || w < SMALLEST
            || hint.values.len() != hint.shape.elements()
        {
            let expected = format!("a hint of {} channels, at least {SMALLEST}×{SMALLEST}", config.hint_channels);
            return Err(wrong("hint", expected, hint.shape.to_string()));
        }
        let (stage_c, unet) = &self.model.stage_c;
        let for_other = |expected: String, found: String| Error::Model { path: net.path().to_owned(), expected, found };
        let all = UNet { config: unet }.res_blocks(Shape::new(1, size.0, size.1, unet.in_channels));
        let blocks = config
            .blocks(all.len())
            .map_err(|expected| for_other(expected, format!("one with {}", config.projections)))?;
        if let Some((_, shape)) = blocks.iter().map(|block| &all[*block]).find(|(_, shape)| shape.c != config.channels)
        {
            return Err(for_other(
                format!("a ControlNet for a Stage C of {} channels, as {} is", shape.c, stage_c.path.display()),
                match config.channels {
                    2048 => "one for 2048 channels, the Stage C of 3.6 B parameters, which is a different model".into(),
                    channels => format!("one for {channels} channels"),
                },
            ));
        }

        let mut rec = Recorder::new();
        let input = rec.input(hint.shape, Element::F32);
        let mut scope = Net::new(&mut rec, &net.weights);
        let mut results = Vec::with_capacity(blocks.len());
        for (block, addition) in blocks.iter().zip(controlnet::additions(&mut scope, config, input)?) {
            let Shape { h: height, w: width, .. } = all[*block].1;
            let fits = (addition.shape.h, addition.shape.w) == (height, width);
            let resized =
                if fits { addition } else { scope.op("resize", Resample { height, width }, &[slot(addition)])? };
            results.push((*block, resized));
        }
        results.iter().for_each(|(_, slot)| rec.keep(*slot));
        let plan = Arc::new(rec.finish());
        let what = format!("the ControlNet {} for a hint of {w}×{h}", net.path().display());
        let mut program = self.plans.program(&plan, self.backend.as_ref(), &what)?;
        program.write(input, bytemuck::cast_slice(&hint.values))?;
        match check_nodes {
            true => crate::check::run(&plan, program.as_mut(), 0..plan.nodes.len(), self.backend.device().rounds())?,
            false => program.run(0..plan.nodes.len())?,
        }
        let mut additions = Vec::with_capacity(results.len());
        for (block, slot) in results {
            let mut values = vec![0f32; slot.shape.elements()];
            program.read(slot, bytemuck::cast_slice_mut(&mut values))?;
            let bad = values.iter().filter(|value| !value.is_finite()).count();
            if bad > 0 {
                return Err(not_finite(&[&net.weights], "the ControlNet", bad as u32, String::new()));
            }
            additions.push((block, HostTensor { shape: slot.shape, values }));
        }
        Ok(Additions(additions))
    }
}
