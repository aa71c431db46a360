//! `--check-nodes`: every node is run on the device and by its definition, and
//! the first that differs is named.

use std::ops::Range;

use crate::backend::Program;
use crate::error::{Error, Result};
use crate::ops::Element;
use crate::plan::{Node, Plan, Source};
use crate::tensor::{Data, Tensor};

/// Largest relative L2 difference of an exact kernel's result that passes.
const EXACT: f64 = 1e-3;
/// The same where factors are rounded to bf16: large attention scores amplify
/// it. A wrong kernel is at about one.
const ROUNDED: f64 = 0.25;

/// Runs `nodes` one by one; reads back operands and result of each, and compares.
/// `rounds` says that the device may round factors to bf16.
///
/// # Errors
/// [`Error::Check`] for the first node that differs: its layer, op and worst element.
pub fn run(plan: &Plan, program: &mut dyn Program, nodes: Range<usize>, rounds: bool) -> Result<()> {
    let limit = if rounds { ROUNDED } else { EXACT };
    for i in nodes {
        let node = &plan.nodes[i];
        let before = operands(program, node)?;
        program.run(i..i + 1)?;
        let mut got = vec![0f32; node.output.shape.elements()];
        program.read(node.output, bytemuck::cast_slice_mut(&mut got))?;
        compare(plan, node, &before, &got, limit)?;
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

fn compare(plan: &Plan, node: &Node, before: &[Vec<f32>], got: &[f32], limit: f64) -> Result<()> {
    let inputs: Vec<Option<Tensor<'_>>> = node
        .inputs
        .iter()
        .zip(before)
        .map(|(source, values)| {
            let source = source.as_ref()?;
            let data = match source {
                Source::Weight(w, _) => Data::Weight(&plan.weights[*w]),
                Source::Slot(slot) => match plan.slots[slot.id()].element {
                    Element::F32 | Element::GemmInput => Data::F32(values),
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
    let square = |f: &dyn Fn(usize) -> f64| (0..want.len()).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
    let difference = |i: usize| f64::from(got[i]) - f64::from(want[i]);
    let error = square(&difference) / square(&|i| f64::from(want[i])).max(f64::MIN_POSITIVE);
    // Equal values differ by nothing, also where all are zero or overflow alike; NaN fails.
    if error <= limit || got == want {
        return Ok(());
    }
    // NaN counts as the largest difference.
    let at = (0..want.len()).max_by(|a, b| difference(*a).abs().total_cmp(&difference(*b).abs())).unwrap_or(0);
    let s = node.output.shape;
    let (c, w, h, n) = (at % s.c, at / s.c % s.w, at / s.c / s.w % s.h, at / s.c / s.w / s.h);
    Err(Error::Check(format!(
        "{}: {} differs from its definition: element [{n}, {h}, {w}, {c}] of {s} is {}, should be {}; the whole is off by {error:.1e}, allowed {limit:.0e}; \
         `cascade-rt kernels` names the kernel",
        node.at,
        node.op.name(),
        got[at],
        want[at],
    )))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::Residency;
    use crate::ops::{Activation, Function};
    use crate::plan::{Recorder, Slot};
    use crate::shape::Shape;

    /// Answers every read with the same value.
    struct Constant(f32);

    impl Program for Constant {
        fn residency(&self) -> Residency {
            Residency::Mapped
        }
        fn write(&mut self, _: Slot, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn run(&mut self, _: Range<usize>) -> Result<()> {
            Ok(())
        }
        fn time(&mut self, _: Range<usize>) -> Result<Vec<Duration>> {
            Ok(Vec::new())
        }
        fn read(&mut self, _: Slot, bytes: &mut [u8]) -> Result<()> {
            bytemuck::cast_slice_mut(bytes).fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn the_first_node_that_differs_is_named() {
        let mut rec = Recorder::new();
        let x = rec.input(Shape::vector(5), Element::F32);
        let silu = Activation { function: Function::Silu };
        rec.node("here", silu, &[Some(Source::Slot(x))]).unwrap();
        let plan = rec.finish();
        // silu(0) is 0, silu(1) is not 1.
        run(&plan, &mut Constant(0.0), 0..1, false).unwrap();
        for wrong in [1.0, f32::NAN] {
            let error = run(&plan, &mut Constant(wrong), 0..1, true).unwrap_err().to_string();
            assert!(error.starts_with("here: activation differs from its definition"), "{error}");
        }
    }
}
