//! Times every kernel row on its op's cases, through the registry, so that a new row appears by itself.
//!
//! ```text
//! cargo bench --bench kernels -- attention           criterion, names `op/row/case` containing this
//! cargo bench --bench kernels -- --json [attention]  one JSON line per operation that tools/compare knows
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use cascade_rt::backend::{Backend, Program, cpu, devices};
use cascade_rt::ops::{self, Affine, Case, Element, Function, Op, Operand};
use cascade_rt::plan::{Plan, Recorder, Source};
use cascade_rt::registry::{self, Caps};
use cascade_rt::shape::Shape;
use cascade_rt::tensor::{Dtype, Part, Weight};
use criterion::{Criterion, Throughput};
use half::bf16;

/// The operations of `tools/compare/torch_kernels.py`, under its names.
fn compared() -> Vec<(String, Vec<usize>, Case)> {
    let slot = |n, h, w, c| Some(Operand::Slot(Shape::new(n, h, w, c)));
    let weight = |dims: &[usize]| Some(Operand::Weight(dims.to_vec()));
    let case = |op: Op, inputs| Case { op, inputs, tolerance: 0.0, tolerance_bf16: 0.0 };
    let mut all = Vec::new();
    for [m, k, n] in [[576, 2048, 2048], [1024, 1280, 5120], [1024, 5120, 1280]] {
        let op = ops::Linear { function: Function::Identity };
        let mut inputs = vec![slot(1, 1, m, k), weight(&[n, k]), weight(&[n])];
        inputs.resize(8, None);
        all.push((format!("linear_{m}x{k}x{n}"), vec![m, k, n], case(op.into(), inputs)));
    }
    for [tokens, context, heads, head_dim] in [[576, 85, 32, 64], [1024, 4, 20, 64]] {
        let op = ops::Attention { heads, head_dim, self_part: true, causal: false };
        let c = heads * head_dim;
        let inputs = vec![slot(1, 1, tokens, 3 * c), slot(1, 1, context, 2 * c), None];
        let shape = vec![tokens, context, heads, head_dim];
        all.push((format!("attention_{tokens}+{context}x{heads}x{head_dim}"), shape, case(op.into(), inputs)));
    }
    for [n, h, w, c] in [[2, 24, 24, 2048], [1, 128, 128, 320]] {
        let mut add = |name: &str, c: usize, op: Op, inputs| {
            all.push((format!("{name}_{n}x{h}x{w}x{c}"), vec![n, h, w, c], case(op, inputs)));
        };
        let norm = ops::DepthwiseNorm { eps: 1e-6 };
        add("depthwise_norm", c, norm.into(), vec![slot(n, h, w, c), weight(&[c, 1, 3, 3]), weight(&[c])]);
        let norm = ops::LayerNorm { eps: 1e-6, affine: Affine::None };
        add("layer_norm", c, norm.into(), vec![slot(n, h, w, c), None, None]);
        let norm = ops::GrnScale { eps: 1e-6 };
        add("response_norm", 4 * c, norm.into(), vec![slot(n, h, w, 4 * c), weight(&[4 * c])]);
    }
    all
}

/// Reproducible values in `[-0.5, 0.5)`.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn weight(dims: &[usize], dtype: Dtype) -> Weight {
    let values = noise(dims.iter().product());
    if dtype == Dtype::F32 {
        return Weight::from_f32("bench", dims, values);
    }
    let mut halves: Vec<u16> = values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
    let bytes = 2 * halves.len();
    halves.resize(halves.len().next_multiple_of(2), 0);
    let words: Vec<f32> = halves.chunks(2).map(|h| f32::from_bits(u32::from(h[0]) | u32::from(h[1]) << 16)).collect();
    Weight::new("bench", dims.to_vec(), vec![Part::new(Arc::new(words), 0..bytes, dtype)])
}

/// The case as a plan of one node.
fn plan(case: &Case, dtype: Dtype) -> Plan {
    let mut rec = Recorder::new();
    let inputs: Vec<Option<Source>> = case
        .inputs
        .iter()
        .map(|operand| {
            Some(match operand.as_ref()? {
                Operand::Slot(shape) | Operand::Values(shape, _) => Source::Slot(rec.input(*shape, Element::F32)),
                Operand::Index(shape, _) => Source::Slot(rec.input(*shape, Element::U32)),
                Operand::Weight(dims) => rec.weight(weight(dims, dtype)),
            })
        })
        .collect();
    let out = rec.node("bench", case.op.clone(), &inputs).expect("a case's shapes fit");
    rec.keep(out);
    rec.finish()
}

/// Compiles the plan and writes its operands.
fn program(case: &Case, plan: Arc<Plan>, backend: &dyn Backend) -> Box<dyn Program> {
    let mut program = backend.compile(plan.clone()).expect("it compiles");
    for (operand, source) in case.inputs.iter().zip(&plan.nodes[0].inputs) {
        let Some(Source::Slot(slot)) = source else { continue };
        let values = noise(slot.shape.elements());
        let bytes = match operand {
            Some(Operand::Index(_, values)) => bytemuck::cast_slice(values),
            Some(Operand::Values(_, values)) => bytemuck::cast_slice(values),
            _ => bytemuck::cast_slice(&values),
        };
        program.write(*slot, bytes).expect("it can be written");
    }
    program
}

/// Work per run, as the op's definition counts it.
fn cost(plan: &Plan) -> ops::Cost {
    let node = &plan.nodes[0];
    node.op.cost(&node.shapes(), plan.weight_bytes(), node.output.shape)
}

/// The type that weights are stored in where a device of these capabilities is used.
fn stored(caps: Caps) -> Dtype {
    if caps.contains(Caps::ROUND_BF16) { Dtype::Bf16 } else { Dtype::F32 }
}

fn rows(criterion: &mut Criterion) {
    for kernel in registry::all() {
        let Some(backend) = devices::with_just(kernel).expect("the device opens") else { continue };
        let mut cases: Vec<(String, Case)> = ops::cases().into_iter().map(|case| (String::new(), case)).collect();
        cases.extend(compared().into_iter().map(|(name, _, case)| (name, case)));
        cases.retain(|(_, case)| case.op.name() == kernel.op);
        let mut group = criterion.benchmark_group(format!("{}/{}", kernel.op, kernel.name));
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        for (i, (name, case)) in cases.iter().enumerate() {
            let caps = backend.device().caps;
            let plan = Arc::new(plan(case, stored(caps)));
            let chosen = registry::choose(&plan.nodes[0], &plan.weights, kernel.lang, caps).0;
            if !std::ptr::eq(chosen, kernel) {
                continue; // the shape does not fit this row
            }
            let name = if name.is_empty() { format!("case {i}") } else { name.clone() };
            let cost = cost(&plan);
            group.throughput(if cost.flops > 0 {
                Throughput::Elements(cost.flops)
            } else {
                Throughput::Bytes(cost.bytes)
            });
            group.bench_function(name, |bencher| {
                let mut program = program(case, plan.clone(), backend.as_ref());
                let out = plan.nodes[0].output;
                let mut result = vec![0u32; out.shape.elements()];
                bencher.iter_custom(|times| {
                    let start = Instant::now();
                    (0..times).for_each(|_| program.run(0..1).expect("it runs"));
                    // A GPU may still be at work when `run` returns.
                    program.read(out, bytemuck::cast_slice_mut(&mut result)).expect("it can be read");
                    start.elapsed()
                });
            });
        }
        group.finish();
    }
}

/// One line per operation and dtype, for `compare.py`.
fn json(filter: &str) {
    for (dtype, rounded) in [("f32", false), ("bf16", true)] {
        let backend = cpu::Cpu::new(rounded);
        for (name, shape, case) in compared().into_iter().filter(|(name, ..)| name.contains(filter)) {
            let plan = Arc::new(plan(&case, stored(backend.device().caps)));
            let cost = cost(&plan);
            let mut program = program(&case, plan, &backend);
            let mut milliseconds = Vec::new();
            let start = Instant::now();
            while milliseconds.len() < 6 || start.elapsed() < Duration::from_secs(1) {
                let start = Instant::now();
                program.run(0..1).expect("it runs");
                milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
            }
            milliseconds.remove(0); // pages are touched for the first time
            milliseconds.sort_by(f64::total_cmp);
            let (min, median) = (milliseconds[0], milliseconds[milliseconds.len() / 2]);
            let gflops = cost.flops as f64 / median / 1e6;
            println!(
                r#"{{"name": "{name}", "dtype": "{dtype}", "shape": {shape:?}, "median_ms": {median:.4}, "min_ms": {min:.4}, "gflops": {gflops:.1}}}"#
            );
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().position(|a| a == "--json") {
        Some(at) => json(arguments.get(at + 1).map_or("", String::as_str)),
        None => {
            let mut criterion = Criterion::default().configure_from_args();
            rows(&mut criterion);
            criterion.final_summary();
        }
    }
}
