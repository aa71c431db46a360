//! `--check-nodes`: runs every node on the device and with the op's reference implementation,
//! and reports the first whose results differ. [`cases`]: what every kernel is tested on; [`kernels`]: that test.

pub mod cases;
pub mod kernels;

use std::ops::Range;

use crate::backend::Program;
use crate::error::{Error, Result};
use crate::ops::Element;
use crate::plan::{Node, Plan, Source};
use crate::tensor::{Data, Tensor};

/// Largest allowed relative L2 error of a kernel that computes in f32.
const EXACT: f64 = 1e-3;
/// The same if GEMM inputs are rounded to bf16, or to int8 where weights are. It is large because large attention scores amplify
/// the rounding; the error of a wrong kernel is about 1.
const ROUNDED: f64 = 0.25;

/// Runs `nodes` one by one, reads back the operands and the result of each, and compares.
/// `rounds` says whether the device may round GEMM inputs to bf16.
///
/// # Errors
/// [`Error::Check`] for the first node that differs, with its layer, op and worst element.
pub fn run(plan: &Plan, program: &mut dyn Program, nodes: Range<usize>, rounds: bool) -> Result<()> {
    for i in nodes {
        let node = &plan.nodes[i];
        let is_int8 = |source: &Source| matches!(source, Source::Weight(w, _) if plan.weights[*w].is_int8());
        let limit = if rounds || node.inputs.iter().flatten().any(is_int8) { ROUNDED } else { EXACT };
        let before = operands(program, node)?;
        program.run(i..i + 1)?;
        let mut got = vec![0f32; node.output.shape.elements()];
        program.read(node.output, bytemuck::cast_slice_mut(&mut got))?;
        compare(plan, node, &before, &got, limit)?;
    }
    Ok(())
}

/// The contents of a node's operand slots; empty for weights and absent operands.
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
        // These are not compared. Packed pixels may differ by rounding, and a wrong counter or count shows in the
        // results of other nodes.
        return Ok(());
    }
    let square = |f: &dyn Fn(usize) -> f64| (0..want.len()).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
    let difference = |i: usize| f64::from(got[i]) - f64::from(want[i]);
    let error = square(&difference) / square(&|i| f64::from(want[i])).max(f64::MIN_POSITIVE);
    // The second condition accepts equal results that contain infinities. NaN always fails.
    if error <= limit || got == want {
        return Ok(());
    }
    // NaN counts as the largest difference.
    let at = (0..want.len()).max_by(|a, b| difference(*a).abs().total_cmp(&difference(*b).abs())).unwrap_or(0);
    let s = node.output.shape;
    let (c, w, h, n) = (at % s.c, at / s.c % s.w, at / s.c / s.w % s.h, at / s.c / s.w / s.h);
    Err(Error::Check(format!(
        "{}: {} differs from its definition: element [{n}, {h}, {w}, {c}] of {s} is {}, expected {}; \
         the relative error of the result is {error:.1e}, allowed {limit:.0e}; \
         `cascade-rt kernels` lists the kernel that was used",
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

    /// A program whose results are all the same value.
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
