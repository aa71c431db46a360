//! The cases of an op as plans of one node: what the host writes, and what the op's definition makes of it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use half::{bf16, f16};

use super::kernels::Difference;
use crate::backend::{Backend, Device, Program, cpu};
use crate::error::Result;
use crate::ops::{self, Case, Element, Operand};
use crate::plan::{Plan, Recorder, Slot, Source};
use crate::registry::{Caps, Kernel};
use crate::tensor::{Dtype, Part, Weight};

/// A result with more elements than this tests how the grid of a launch is laid out. How operands are stored changes
/// nothing about that, so one way of storing them is enough; the op's other cases try all of them.
const LARGE: usize = 1 << 18;

/// Every op's cases.
static CASES: LazyLock<Vec<Case>> = LazyLock::new(ops::cases);

/// The cases of one op, each with its number in the list of all cases.
pub fn of(op: &str) -> impl Iterator<Item = (usize, &'static Case)> {
    CASES.iter().enumerate().filter(move |(_, case)| case.op.name() == op)
}

/// Element `j` of tensor `i` of everything that is tested, in `[-1, 1)`. It is a hash, so that no files are needed.
pub fn golden(i: u32, j: u32) -> f64 {
    let mut h = 1664525u32.wrapping_mul(i.wrapping_mul(1_000_003).wrapping_add(j)).wrapping_add(1013904223);
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    f64::from(h) / 2f64.powi(32) * 2.0 - 1.0
}

/// Values in `[-1, 1)` around `mean`, from a fixed sequence.
pub fn noise(len: usize, seed: u32, mean: f32) -> Vec<f32> {
    (0..len as u32).map(|j| golden(seed, j) as f32 + mean).collect()
}

/// Learned values stored as `dtype`, stacked from two parts where the rows allow.
pub fn weight(dims: &[usize], seed: u32, dtype: Dtype) -> Weight {
    let fan_in: usize = dims.iter().skip(1).product();
    let scale = if dims.len() > 1 { (3.0 / fan_in as f32).sqrt() } else { 0.5 };
    // 1-D tensors include variances, which are positive.
    let mean = if dims.len() > 1 { 0.0 } else { 1.25 };
    let values: Vec<f32> = noise(dims.iter().product(), seed, mean).iter().map(|v| v * scale).collect();
    if dtype == Dtype::I8 {
        return int8(dims, &values);
    }
    let mut bytes: Vec<u8> = match dtype {
        Dtype::F32 => bytemuck::cast_slice(&values).to_vec(),
        Dtype::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::I8 => unreachable!("int8 weights are made together with their scales"),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let source: Arc<Vec<f32>> =
        Arc::new(bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
    let row = fan_in * dtype.bytes();
    let ranges = ranges(dims, row);
    Weight::new("test", dims.to_vec(), ranges.map(|r| Part::new(source.clone(), r, dtype)).collect())
}

/// The same values, rounded to int8.
fn int8(dims: &[usize], values: &[f32]) -> Weight {
    let all = Weight::from_f32("test", dims, values.to_vec()).to_int8();
    let row = values.len() / dims[0];
    let parts = ranges(dims, row).map(|range| all.parts()[0].rows(range.start / row..range.end / row, row));
    Weight::new("test", dims.to_vec(), parts.collect())
}

/// The bytes of both parts of a matrix, or of all of another weight, whose rows have so many bytes.
fn ranges(dims: &[usize], row: usize) -> impl Iterator<Item = Range<usize>> {
    let (split, len) = (dims[0] / 3 * row, dims[0] * row);
    let ranges = if dims.len() == 2 && split > 0 { vec![0..split, split..len] } else { vec![0..len; 1] };
    ranges.into_iter()
}

/// How a case is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The learned values.
    pub dtype: Dtype,
    /// Whether the operand that may be overwritten is.
    pub state: bool,
    /// Whether GEMM inputs are stored in bf16, the result too.
    pub gemm_inputs: bool,
}

impl Stored {
    /// All ways in which a case can be stored. Without learned values, their type makes no difference.
    pub fn all(case: &Case) -> impl Iterator<Item = Stored> {
        const DTYPES: &[Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::I8];
        let states = [(false, false), (true, false), (false, true)];
        let dtypes = if has_weights(case) { DTYPES } else { &DTYPES[..1] };
        dtypes.iter().flat_map(move |&dtype| states.map(|(state, gemm_inputs)| Stored { dtype, state, gemm_inputs }))
    }

    /// Whether a device could have it stored like this. One that copies weights has those of int8 widened.
    pub fn is_on(self, device: &Device) -> bool {
        (device.stores_bf16() || !self.gemm_inputs) && (!device.copies_weights || self.dtype != Dtype::I8)
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} weights", format!("{:?}", self.dtype).to_lowercase())?;
        f.write_str(if self.state { ", in place" } else { "" })?;
        f.write_str(if self.gemm_inputs { ", GEMM inputs in bf16" } else { "" })
    }
}

fn has_weights(case: &Case) -> bool {
    case.inputs.iter().flatten().any(|operand| matches!(operand, Operand::Weight(_)))
}

/// Whether a case tests the grid of a launch, see `LARGE`.
pub fn is_large(case: &Case) -> bool {
    let shapes: Vec<_> = case.inputs.iter().map(|operand| operand.as_ref().map(Operand::shape)).collect();
    case.op.shape(&shapes).expect("the case is one of the op").elements() > LARGE
}

/// Whether a device that stores GEMM inputs in bf16 keeps something of this case otherwise than one that does not.
pub fn depends_on_bf16(case: &Case, stored: Stored) -> bool {
    stored.gemm_inputs || (0..case.inputs.len()).any(|i| case.op.feeds_gemm(i, false))
}

/// A plan of one node, with what the host writes.
pub struct One {
    plan: Arc<Plan>,
    writes: Vec<(Slot, Vec<u8>)>,
    out: Slot,
    /// Number of the case, and how it is stored.
    case: (usize, Stored),
}

impl One {
    /// Case number `number`, stored in this way, if it can be.
    pub fn of(number: usize, stored: Stored) -> Option<One> {
        let (case, Stored { dtype, state, gemm_inputs }) = (&CASES[number], stored);
        let mut rec = Recorder::new();
        let mut writes = Vec::new();
        let inputs: Vec<Option<Source>> = (0u32..)
            .zip(&case.inputs)
            .map(|(i, operand)| {
                Some(match operand.as_ref()? {
                    Operand::Slot(shape) => {
                        let gemm_input = gemm_inputs && case.op.feeds_gemm(i as usize, true);
                        let slot = rec.input(*shape, if gemm_input { Element::GemmInput } else { Element::F32 });
                        let mut values = noise(shape.elements(), 100 + i, 0.3);
                        if gemm_input {
                            values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
                        }
                        writes.push((slot, bytemuck::cast_slice(&values).to_vec()));
                        Source::Slot(slot)
                    }
                    Operand::Values(shape, values) => {
                        let slot = rec.input(*shape, Element::F32);
                        writes.push((slot, bytemuck::cast_slice(values).to_vec()));
                        Source::Slot(slot)
                    }
                    Operand::Index(shape, values) => {
                        let slot = rec.input(*shape, Element::U32);
                        writes.push((slot, bytemuck::cast_slice(values).to_vec()));
                        Source::Slot(slot)
                    }
                    Operand::Weight(dims) => rec.weight(weight(dims, 200 + i, dtype)),
                })
            })
            .collect();
        let out = if state {
            let Some(Source::Slot(state)) = inputs[case.op.in_place()?] else { return None };
            let shapes: Vec<_> = inputs.iter().map(|i| i.as_ref().map(Source::shape)).collect();
            if case.op.shape(&shapes) != Ok(state.shape) {
                return None;
            }
            rec.update("test", case.op.clone(), &inputs, state).expect("the case is one of the op");
            state
        } else {
            rec.node("test", case.op.clone(), &inputs).expect("the case is one of the op")
        };
        rec.keep(out);
        let mut plan = rec.finish();
        if gemm_inputs {
            if case.op.element() != Element::F32 {
                return None;
            }
            plan.slots[out.id()].element = Element::GemmInput;
        }
        Some(One { plan: Arc::new(plan), writes, out, case: (number, stored) })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What the host writes into slots before it runs.
    pub fn writes(&self) -> &[(Slot, Vec<u8>)] {
        &self.writes
    }

    /// The largest error that a kernel may have.
    pub fn allowed(&self, kernel: &Kernel) -> f32 {
        let (case, stored) = (&CASES[self.case.0], self.case.1);
        // Half a unit in the last place of a bf16 result.
        let stores = if stored.gemm_inputs { 1.0 / 256.0 } else { 0.0 };
        stores
            + match kernel.needs {
                needs if needs.contains(Caps::ROUND_INT8) => case.tolerance_int8,
                needs if needs.common(Caps::ROUNDING) != Caps::NONE => case.tolerance_bf16,
                _ => case.tolerance,
            }
    }

    /// The element of a result of `kernel` that differs most from what it should be, if that is more than it may.
    pub fn difference(&self, got: &[f32], kernel: &Kernel) -> Option<Difference> {
        let (want, allowed) = (self.reference(), self.allowed(kernel));
        let (at, error) = worst(got, &want);
        let (case, stored) = self.case;
        let mut shape = self.out.shape;
        // Packed bytes are elements of their own.
        shape.c *= got.len() / shape.elements().max(1);
        (error > allowed).then(|| Difference { case, stored, shape, at, got: got[at], want: want[at], error, allowed })
    }

    /// Elements of the result.
    pub fn elements(&self) -> usize {
        self.out.shape.elements()
    }

    /// Runs the plan; values are as real numbers whatever the element.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&self, mut program: Box<dyn Program>) -> Result<Vec<f32>> {
        for (slot, bytes) in &self.writes {
            program.write(*slot, bytes)?;
        }
        program.run(0..1)?;
        let mut bits = vec![0u32; self.out.shape.elements()];
        program.read(self.out, bytemuck::cast_slice_mut(&mut bits))?;
        Ok(match self.plan.nodes[0].op.element() {
            Element::F32 | Element::GemmInput => bits.iter().map(|&b| f32::from_bits(b)).collect(),
            // Packed bytes, each of which may differ by rounding.
            Element::U32 => bits.iter().flat_map(|b| b.to_le_bytes()).map(f32::from).collect(),
        })
    }

    /// What the op's definition makes of the same values. Every row of the op needs it, so it is computed once, and not in
    /// place, which changes no value.
    pub fn reference(&self) -> Arc<Vec<f32>> {
        /// Case, type of the learned values, whether GEMM inputs are rounded.
        type Key = (usize, usize, bool);
        /// Computed by whoever asks first; others wait.
        type Result = Arc<OnceLock<Arc<Vec<f32>>>>;
        static KNOWN: LazyLock<Mutex<HashMap<Key, Result>>> = LazyLock::new(Mutex::default);
        let (number, Stored { dtype, state, gemm_inputs }) = self.case;
        let known = KNOWN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((number, dtype as usize, gemm_inputs))
            .or_default()
            .clone();
        let compute = || {
            let elsewhere = state.then(|| One::of(number, Stored { state: false, ..self.case.1 })).flatten();
            let one = elsewhere.as_ref().unwrap_or(self);
            let program = cpu::Cpu::reference().compile(one.plan.clone());
            Arc::new(program.and_then(|program| one.run(program)).expect("the definition needs no device"))
        };
        known.get_or_init(compute).clone()
    }
}

/// Largest `|got − want| / (1 + |want|)`, and where.
pub fn worst(got: &[f32], want: &[f32]) -> (usize, f32) {
    let error = |i: usize| (got[i] - want[i]).abs() / (1.0 + want[i].abs());
    // NaN is worse than anything.
    let key = |e: f32| if e.is_nan() { f32::INFINITY } else { e };
    (0..got.len()).map(|i| (i, key(error(i)))).fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a })
}
