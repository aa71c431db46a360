//! `--check-nodes`: every node is run on the device and by its definition, and
//! the first that differs is named.

use std::ops::Range;

use crate::backend::Program;
use crate::error::{Error, Result};
use crate::ops::Element;
use crate::plan::{Node, Plan, Source};
use crate::tensor::{Data, Tensor};

/// Largest `|got − want|`, relative to the root mean square of what was wanted,
/// that passes: what rounding factors to bf16 can do to a sum. Exact kernels stay a
/// thousand times below; a wrong kernel is far above.
const LIMIT: f32 = 0.1;

/// Runs `nodes` one by one; reads back operands and result of each, and compares.
///
/// # Errors
/// [`Error::Check`] for the first node that differs: its layer, op and worst element.
pub fn run(plan: &Plan, program: &mut dyn Program, nodes: Range<usize>) -> Result<()> {
    for i in nodes {
        let node = &plan.nodes[i];
        let before = operands(program, node)?;
        program.run(i..i + 1)?;
        let mut got = vec![0f32; node.output.shape.elements()];
        program.read(node.output, bytemuck::cast_slice_mut(&mut got))?;
        compare(plan, node, &before, &got)?;
    }
    Ok(())
}

/// Values of a node's slots, as bits; empty for weights and absent operands.
fn operands(program: &mut dyn Program, node: &Node) -> Result<Vec<Vec<f32>>> {
    let read = |source: &Option<Source>| {
        let Some(Source::Slot(slot)) = source else { return Ok(Vec::new()) };
        let mut values = vec![0f32; slot.shape.elements()];
        program.read(*slot, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    };
    node.inputs.iter().map(read).collect()
}

fn compare(plan: &Plan, node: &Node, before: &[Vec<f32>], got: &[f32]) -> Result<()> {
    let inputs: Vec<Option<Tensor<'_>>> = node
        .inputs
        .iter()
        .zip(before)
        .map(|(source, values)| {
            let source = source.as_ref()?;
            let data = match source {
                Source::Weight(w, _) => Data::Weight(&plan.weights[*w]),
                Source::Slot(slot) => match plan.slots[slot.id()].element {
                    Element::F32 => Data::F32(values),
                    Element::U32 => Data::U32(bytemuck::cast_slice(values)),
                },
            };
            Some(Tensor { shape: source.shape(), data })
        })
        .collect();
    let mut want = vec![0f32; got.len()];
    node.op.reference(&inputs, &mut want, node.output.shape);
    if node.op.element() == Element::U32 {
        // Packed pixels may differ by rounding; counters and counts are compared by the networks' results.
        return Ok(());
    }
    let rms = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt();
    let limit = LIMIT * rms.max(1e-6);
    let bad = |i: &usize| (got[*i] - want[*i]).abs() > limit || got[*i].is_finite() != want[*i].is_finite();
    let Some(at) =
        (0..want.len()).filter(bad).max_by(|a, b| (got[*a] - want[*a]).abs().total_cmp(&(got[*b] - want[*b]).abs()))
    else {
        return Ok(());
    };
    let s = node.output.shape;
    let (c, w, h, n) = (at % s.c, at / s.c % s.w, at / s.c / s.w % s.h, at / s.c / s.w / s.h);
    Err(Error::Check(format!(
        "{}: {} differs from its definition: element [{n}, {h}, {w}, {c}] of {s} is {}, should be {} (allowed difference {limit:.1e}); \
         `cascade-rt kernels` names the kernel",
        node.at,
        node.op.name(),
        got[at],
        want[at],
    )))
}
