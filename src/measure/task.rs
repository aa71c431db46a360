//! Single ops, extracted from a plan to be timed on their own.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Program};
use crate::error::Result;
use crate::ops::{Cost, Element, Op};
use crate::plan::{Node, Plan, Recorder, Slot, Source};
use crate::registry::{self, Kernel, Target};
use crate::shape::Shape;
use crate::synth::Noise;
use crate::tensor::{Dtype, Weight, shape_of_dims};

/// Calls cycle through several copies of the operands, whose total size in bytes exceeds any cache.
const BEYOND_CACHES: u64 = 256 << 20;

/// Largest number of copies. Small operands are also in a cache in a real run.
const MAX_COPIES: u64 = 64;

/// An operand without its values.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// Activations or indices.
    Slot(Shape, Element),
    /// A weight: its dimensions, and the number and type of the elements of each of its parts.
    Weight(Vec<usize>, Vec<(usize, Dtype)>),
}

/// An op with the shapes and types that its operands have in a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The op with its constants.
    pub op: Op,
    /// Its operands; `None` where an optional one is absent.
    pub inputs: Vec<Option<Operand>>,
    /// Element type of the result.
    pub result: Element,
}

/// The distinct ops of a plan in its order, each with its number of calls per batch. `stores_bf16` is as for
/// [`Task::of`].
pub fn distinct(plan: &Plan, stores_bf16: bool) -> Vec<(Task, usize)> {
    let mut tasks: Vec<(Task, usize)> = Vec::new();
    for segment in &plan.segments {
        for node in &plan.nodes[segment.nodes.clone()] {
            let task = Task::of(plan, node, stores_bf16);
            match tasks.iter_mut().find(|(known, _)| *known == task) {
                Some((_, calls)) => *calls += segment.repeats,
                None => tasks.push((task, segment.repeats)),
            }
        }
    }
    tasks
}

impl Task {
    /// The op of a node. Unless the device `stores_bf16`, tensors that only GEMMs read count as f32.
    pub fn of(plan: &Plan, node: &Node, stores_bf16: bool) -> Self {
        let element = |slot: &Slot| match plan.slots[slot.id()].element {
            Element::GemmInput if !stores_bf16 => Element::F32,
            element => element,
        };
        let operand = |source: &Option<Source>| {
            Some(match source.as_ref()? {
                Source::Slot(slot) => Operand::Slot(slot.shape, element(slot)),
                Source::Weight(w, _) => {
                    let weight = &plan.weights[*w];
                    let parts = weight.parts().iter().map(|p| (p.elements().len(), p.dtype()));
                    Operand::Weight(weight.dims.clone(), parts.collect())
                }
            })
        };
        Self { op: node.op.clone(), inputs: node.inputs.iter().map(operand).collect(), result: element(&node.output) }
    }

    /// The work of one call, with `stores_bf16` as for [`Plan::cost`].
    pub fn cost(&self, stores_bf16: bool) -> Cost {
        let plan = self.plan(1);
        plan.cost(&plan.nodes[0], stores_bf16)
    }

    /// The kernels that can run it on such a device. The first is the one that would be chosen.
    pub fn kernels(&self, target: Target) -> Vec<&'static Kernel> {
        let plan = self.plan(1);
        registry::admissible(&plan.nodes[0], &plan, target).collect()
    }

    /// Whether it fits in the device's memory. Small tasks are assumed to fit.
    pub fn fits(&self, backend: &dyn Backend) -> bool {
        self.bytes() < 128 << 20 || backend.compile(Arc::new(self.plan(1))).is_ok()
    }

    /// Compiles it with the given kernel, or the one that would be chosen, and fills its operands with random numbers.
    ///
    /// # Errors
    /// If it does not fit into the device's memory, or the device fails.
    pub fn load(&self, backend: &dyn Backend, kernel: Option<&'static Kernel>) -> Result<Loaded> {
        let copies = (BEYOND_CACHES / self.bytes().max(1)).clamp(1, MAX_COPIES);
        let fits = (backend.device().free_bytes / 4 / self.bytes().max(1)).max(1);
        self.load_copies(backend, kernel, copies.min(fits) as usize)
    }

    /// The same with a given number of copies of the operands.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_copies(&self, backend: &dyn Backend, kernel: Option<&'static Kernel>, copies: usize) -> Result<Loaded> {
        let plan = Arc::new(self.plan(copies));
        let mut program = match kernel {
            Some(kernel) => backend.compile_with(plan.clone(), &vec![kernel; copies])?,
            None => backend.compile(plan.clone())?,
        };
        for (i, operand) in self.inputs.iter().enumerate() {
            let Some(Operand::Slot(shape, element)) = operand else { continue };
            let bits: Vec<u32> = match element {
                Element::F32 | Element::GemmInput => noise(shape.elements()),
                Element::U32 => (0..shape.elements()).map(|j| self.index(i, j)).collect(),
            };
            for node in &plan.nodes {
                let Some(Source::Slot(slot)) = node.inputs[i] else { continue };
                program.write(slot, bytemuck::cast_slice(&bits))?;
            }
        }
        Ok(Loaded { program, copies, next: 0 })
    }

    /// Bytes of all operands and the result.
    fn bytes(&self) -> u64 {
        let of = |operand: &Operand| match operand {
            Operand::Slot(shape, _) => 4 * shape.elements(),
            Operand::Weight(_, parts) => parts.iter().map(|(len, dtype)| len * dtype.bytes()).sum(),
        };
        let inputs: usize = self.inputs.iter().flatten().map(of).sum();
        (inputs + 4 * self.out().elements()) as u64
    }

    fn shapes(&self) -> Vec<Option<Shape>> {
        let shape = |operand: &Operand| match operand {
            Operand::Slot(shape, _) => *shape,
            Operand::Weight(dims, _) => shape_of_dims(dims),
        };
        self.inputs.iter().map(|operand| operand.as_ref().map(shape)).collect()
    }

    fn out(&self) -> Shape {
        self.op.shape(&self.shapes()).expect("the operands are those of a plan")
    }

    /// Element `j` of operand `i`, which holds indices: in range, and scattered over the rows.
    fn index(&self, i: usize, j: usize) -> u32 {
        let shapes = self.shapes();
        let rows = |operand: usize| shapes[operand].map_or(1, |s| s.rows());
        let value = match (self.op.name(), i) {
            // No key is masked.
            ("attention", _) => shapes[0].map_or(1, |x| x.tokens()),
            ("embed", _) => j * 7919 % rows(1),
            ("gather", _) => j * 7919 % rows(0),
            // The counter of steps.
            _ => 0,
        };
        value as u32
    }

    /// A plan with one node per copy, each with its own operands. No node works in place: if it ran
    /// repeatedly on its own result, the values would become zeros or infinities.
    fn plan(&self, copies: usize) -> Plan {
        let (mut rec, mut results) = (Recorder::new(), Vec::new());
        let stored = |operand: &Operand| match operand {
            Operand::Slot(..) => 0,
            Operand::Weight(_, parts) => parts.iter().map(|(len, dtype)| len * dtype.bytes()).sum(),
        };
        let weights: usize = self.inputs.iter().flatten().map(stored).sum();
        let mut values = (weights > 0).then(|| Noise::new(copies * weights));
        for _ in 0..copies {
            let mut source = |operand: &Operand| match (operand, &mut values) {
                (Operand::Slot(shape, element), _) => Source::Slot(rec.input(*shape, *element)),
                (Operand::Weight(dims, parts), Some(values)) => {
                    let row = dims[1..].iter().product();
                    let parts = parts.iter().map(|(len, dtype)| values.part(*len, *dtype, row)).collect();
                    rec.weight(Weight::new(self.op.name(), dims.clone(), parts))
                }
                (Operand::Weight(..), None) => unreachable!("weights have values"),
            };
            let inputs: Vec<_> = self.inputs.iter().map(|operand| operand.as_ref().map(&mut source)).collect();
            let out = rec.node(self.op.name(), self.op.clone(), &inputs).expect("the operands are those of a plan");
            rec.keep(out);
            results.push(out);
        }
        let mut plan = rec.finish();
        // The result has the element type that it has in the plan that the task was extracted from.
        results.iter().for_each(|out| plan.slots[out.id()].element = self.result);
        plan
    }
}

impl fmt::Display for Task {
    /// The operands' dimensions, with `-` for an absent operand before the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = |operand: &Option<Operand>| match operand {
            None => "-".to_owned(),
            Some(Operand::Slot(Shape { n, h, w, c }, _)) => format!("{n}x{h}x{w}x{c}"),
            Some(Operand::Weight(dims, _)) => dims.iter().map(|dim| format!("{dim}")).collect::<Vec<_>>().join("x"),
        };
        let used = self.inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        f.pad(&self.inputs[..used].iter().map(extent).collect::<Vec<_>>().join(","))
    }
}

/// Reproducible pseudo-random f32 in `[-0.5, 0.5)`, as bits.
fn noise(len: usize) -> Vec<u32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state as f32 / u32::MAX as f32 - 0.5).to_bits()
    };
    (0..len).map(|_| next()).collect()
}

/// A task compiled for a device, with its operands filled.
pub struct Loaded {
    program: Box<dyn Program>,
    copies: usize,
    next: usize,
}

impl Loaded {
    /// Time that the device takes for `calls` calls, each on the next copy of the operands.
    ///
    /// # Errors
    /// If the device fails.
    pub fn time(&mut self, calls: u64) -> Result<Duration> {
        let (mut left, mut total) = (calls, Duration::ZERO);
        while left > 0 {
            let nodes = self.next_copies(left);
            left -= nodes.len() as u64;
            total += self.program.time(nodes)?.iter().sum::<Duration>();
        }
        Ok(total)
    }

    /// The times of as many calls as take about `budget`, in ascending order. There is at least one.
    ///
    /// # Errors
    /// If the device fails.
    pub fn times(&mut self, budget: Duration) -> Result<Vec<Duration>> {
        let start = Instant::now();
        // The first call is a warm-up, which is dropped below if there are others.
        let mut times = vec![self.time(1)?];
        while start.elapsed() < budget && times.len() < 1000 {
            let quick = start.elapsed() * (self.copies as u32) < budget;
            let nodes = self.next_copies(if quick { u64::MAX } else { 1 });
            times.extend(self.program.time(nodes)?);
        }
        if times.len() > 1 {
            times.drain(..(times.len() / 2).min(self.copies));
        }
        times.sort();
        Ok(times)
    }

    /// The nodes of the next copies, at most `most` of them.
    fn next_copies(&mut self, most: u64) -> Range<usize> {
        let start = self.next;
        let end = self.copies.min(start.saturating_add(most.min(MAX_COPIES) as usize));
        self.next = end % self.copies;
        start..end
    }
}
