//! Kernels that are compared before a device is trusted with them. Cooperative matrices are experimental in wgpu, whose
//! barriers may be too weak for them, and drivers have had them wrong; a picture would show it, but nobody would know why.
//! So each row that needs them runs some cases of its op when the device is opened, several times, beside the row that
//! needs nothing.

use std::sync::Arc;

use crate::backend::{Backend, Program};
use crate::error::Result;
use crate::ops::{self, Case, Element, Operand};
use crate::plan::{Plan, Recorder, Slot, Source};
use crate::registry::{self, Caps, Kernel, Lang, Target};
use crate::tensor::Weight;

/// Cases of each row, and runs of each case: a race need not show in the first.
const CASES: usize = 3;
const RUNS: usize = 4;

/// What is wrong with the rows of `gpu` that need some of `suspects`, if anything is.
///
/// # Errors
/// If the device fails, or memory is short.
pub(super) fn run(gpu: &dyn Backend, suspects: Caps) -> Result<Option<String>> {
    let caps = gpu.device().caps;
    let suspected = |row: &&Kernel| caps.contains(row.needs) && row.needs.without(suspects) != row.needs;
    let rows: Vec<_> = registry::kernels(Lang::Wgsl).filter(suspected).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let cases = ops::cases();
    for row in rows {
        let trials = cases.iter().filter(|case| case.op.name() == row.op).filter_map(Trial::new);
        for trial in trials.filter(|trial| trial.rows(caps).any(|r| std::ptr::eq(r, row))).take(CASES) {
            if let Some(wrong) = trial.compare(gpu, row)? {
                return Ok(Some(wrong));
            }
        }
    }
    Ok(None)
}

/// A case as a plan of one node.
struct Trial<'a> {
    case: &'a Case,
    plan: Arc<Plan>,
    writes: Vec<(Slot, Vec<u8>)>,
    out: Slot,
}

impl<'a> Trial<'a> {
    /// `None` for a case that the recorder refuses.
    fn new(case: &'a Case) -> Option<Self> {
        let mut rec = Recorder::new();
        let mut writes = Vec::new();
        let inputs: Vec<_> = (0u32..)
            .zip(&case.inputs)
            .map(|(i, operand)| {
                let (shape, bytes) = match operand.as_ref()? {
                    Operand::Weight(dims) => {
                        let columns: usize = dims.iter().skip(1).product();
                        let values = numbers(dims.iter().product(), 200 + i, (3.0 / columns as f32).sqrt());
                        return Some(rec.weight(Weight::from_f32("trial", dims, values)));
                    }
                    Operand::Slot(shape) => (shape, numbers(shape.elements(), 100 + i, 1.0)),
                    Operand::Values(shape, values) => (shape, values.clone()),
                    Operand::Index(shape, values) => {
                        let slot = rec.input(*shape, Element::U32);
                        writes.push((slot, bytemuck::cast_slice(values).to_vec()));
                        return Some(Source::Slot(slot));
                    }
                };
                let slot = rec.input(*shape, Element::F32);
                writes.push((slot, bytemuck::cast_slice(&bytes).to_vec()));
                Some(Source::Slot(slot))
            })
            .collect();
        let out = rec.node("trial", case.op.clone(), &inputs).ok()?;
        rec.keep(out);
        Some(Self { case, plan: Arc::new(rec.finish()), writes, out })
    }

    /// The rows that could compute it on a device of these capabilities.
    fn rows(&self, caps: Caps) -> impl Iterator<Item = &'static Kernel> + '_ {
        let target = Target::new(Lang::Wgsl, caps);
        registry::admissible(&self.plan.nodes[0], &self.plan, target)
    }

    /// Says how `row` differs from the row that needs nothing, or from itself, if it does.
    fn compare(&self, gpu: &dyn Backend, row: &'static Kernel) -> Result<Option<String>> {
        let plain = registry::choose(&self.plan.nodes[0], &self.plan, Target::new(Lang::Wgsl, Caps::NONE)).0;
        let want = self.values(gpu.compile_with(self.plan.clone(), &[plain])?.as_mut())?;
        let mut program = gpu.compile_with(self.plan.clone(), &[row])?;
        let first = self.values(program.as_mut())?;
        let limit = self.case.tolerance + if row.rounds() { self.case.tolerance_bf16 } else { self.case.tolerance };
        let error = |(got, want): (&f32, &f32)| (got - want).abs() / (1.0 + want.abs());
        // Not `any above`: NaN is neither above nor within.
        if !first.iter().zip(&want).map(error).all(|error| error <= limit) {
            return Ok(Some(format!("`{}` computes something else than `{}`", row.name, plain.name)));
        }
        for _ in 1..RUNS {
            if self.values(program.as_mut())?.iter().map(|v| v.to_bits()).ne(first.iter().map(|v| v.to_bits())) {
                return Ok(Some(format!("`{}` computes something else each time", row.name)));
            }
        }
        Ok(None)
    }

    fn values(&self, program: &mut dyn Program) -> Result<Vec<f32>> {
        for (slot, bytes) in &self.writes {
            program.write(*slot, bytes)?;
        }
        program.run(0..1)?;
        let mut values = vec![0f32; self.out.shape.elements()];
        program.read(self.out, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
}

/// Numbers in `[-scale, scale)`, the multiples of the golden ratio modulo 1.
fn numbers(count: usize, seed: u32, scale: f32) -> Vec<f32> {
    let number = |j: u32| (j.wrapping_add(seed << 20).wrapping_mul(0x9e37_79b9) as f32 / 2f32.powi(31) - 1.0) * scale;
    (0..count as u32).map(number).collect()
}
