//! The cases of an op as plans of one node: what the host writes, and what the op's reference makes of it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use cascade_rt::backend::{Backend, Program, cpu};
use cascade_rt::ops::{self, Case, Element, Operand};
use cascade_rt::plan::{Plan, Recorder, Slot, Source};
use cascade_rt::tensor::{Dtype, Part, Weight};
use half::{bf16, f16};

/// A result with more elements than this tests how the grid of a launch is laid out. How operands are stored changes
/// nothing about that, so one way of storing them is enough; the op's other cases try all of them.
const LARGE: usize = 1 << 18;

/// Every op's cases.
static CASES: LazyLock<Vec<Case>> = LazyLock::new(ops::cases);

/// The cases of one op, each with its number in the list of all cases.
pub fn of(op: &str) -> impl Iterator<Item = (usize, &'static Case)> {
    CASES.iter().enumerate().filter(move |(_, case)| case.op.name() == op)
}

/// Values in `[-1, 1)` around `mean`, from a fixed sequence.
pub fn noise(len: usize, seed: u32, mean: f32) -> Vec<f32> {
    (0..len as u32).map(|j| super::common::golden(seed, j) as f32 + mean).collect()
}

/// Learned values stored as `dtype`, stacked from two parts where the rows allow.
pub fn weight(dims: &[usize], seed: u32, dtype: Dtype) -> Weight {
    let fan_in: usize = dims.iter().skip(1).product();
    let scale = if dims.len() > 1 { (3.0 / fan_in as f32).sqrt() } else { 0.5 };
    // 1-D tensors include variances, which are positive.
    let mean = if dims.len() > 1 { 0.0 } else { 1.25 };
    let values: Vec<f32> = noise(dims.iter().product(), seed, mean).iter().map(|v| v * scale).collect();
    let mut bytes: Vec<u8> = match dtype {
        Dtype::F32 => bytemuck::cast_slice(&values).to_vec(),
        Dtype::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
    };
    let len = bytes.len();
    bytes.resize(len.next_multiple_of(4), 0);
    let source: Arc<Vec<f32>> =
        Arc::new(bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
    let row = fan_in * dtype.bytes();
    let split = dims[0] / 3 * row;
    let ranges = if dims.len() == 2 && split > 0 { vec![0..split, split..len] } else { vec![0..len; 1] };
    Weight::new("test", dims.to_vec(), ranges.into_iter().map(|r| Part::new(source.clone(), r, dtype)).collect())
}

/// How a case is stored.
#[derive(Debug, Clone, Copy)]
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
        let states = [(false, false), (true, false), (false, true)];
        let dtypes: &[Dtype] = if has_weights(case) { &[Dtype::F32, Dtype::Bf16, Dtype::F16] } else { &[Dtype::F32] };
        dtypes.iter().flat_map(move |&dtype| states.map(|(state, gemm_inputs)| Stored { dtype, state, gemm_inputs }))
    }
}

fn has_weights(case: &Case) -> bool {
    case.inputs.iter().flatten().any(|operand| matches!(operand, Operand::Weight(_)))
}

/// Whether a case [tests the grid of a launch](LARGE).
pub fn is_large(case: &Case) -> bool {
    let shapes: Vec<_> = case.inputs.iter().map(|operand| operand.as_ref().map(Operand::shape)).collect();
    case.op.shape(&shapes).unwrap().elements() > LARGE
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
            if case.op.shape(&shapes).unwrap() != state.shape {
                return None;
            }
            rec.update("test", case.op.clone(), &inputs, state).unwrap();
            state
        } else {
            rec.node("test", case.op.clone(), &inputs).unwrap()
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

    /// Elements of the result.
    pub fn elements(&self) -> usize {
        self.out.shape.elements()
    }

    /// Runs the plan; values are as real numbers whatever the element.
    pub fn run(&self, mut program: Box<dyn Program>) -> Vec<f32> {
        for (slot, bytes) in &self.writes {
            program.write(*slot, bytes).unwrap();
        }
        program.run(0..1).unwrap();
        let mut bits = vec![0u32; self.out.shape.elements()];
        program.read(self.out, bytemuck::cast_slice_mut(&mut bits)).unwrap();
        match self.plan.nodes[0].op.element() {
            Element::F32 | Element::GemmInput => bits.iter().map(|&b| f32::from_bits(b)).collect(),
            // Packed bytes, each of which may differ by rounding.
            Element::U32 => bits.iter().flat_map(|b| b.to_le_bytes()).map(f32::from).collect(),
        }
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
            Arc::new(one.run(cpu::Cpu::reference().compile(one.plan.clone()).unwrap()))
        };
        known.get_or_init(compute).clone()
    }

    /// Adds to `digest` all of a case that a kernel could depend on, and what is expected of it.
    pub fn digest(&self, digest: &mut DefaultHasher) {
        let Plan { nodes, slots, weights, gemm_only, arena_len, .. } = &*self.plan;
        let on_device = [false, true].map(|stores_bf16| self.plan.weight_dtypes(stores_bf16));
        format!("{nodes:?} {slots:?} {gemm_only:?} {on_device:?} {arena_len}").hash(digest);
        self.writes.iter().for_each(|(_, bytes)| bytes.hash(digest));
        weights.iter().flat_map(|weight| weight.parts()).for_each(|part| part.bytes().hash(digest));
        self.reference().iter().for_each(|value| value.to_bits().hash(digest));
    }
}

/// Largest `|got − want| / (1 + |want|)`, and where.
pub fn worst(got: &[f32], want: &[f32]) -> (usize, f32) {
    let error = |i: usize| (got[i] - want[i]).abs() / (1.0 + want[i].abs());
    // NaN is worse than anything.
    let key = |e: f32| if e.is_nan() { f32::INFINITY } else { e };
    (0..got.len()).map(|i| (i, key(error(i)))).fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a })
}
