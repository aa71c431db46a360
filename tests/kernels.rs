//! Every kernel row on every case of its op, against the op's reference.
//! A new op or a new row is tested without touching this file.

mod common;
#[path = "kernels/gelu.rs"]
mod gelu;
#[path = "kernels/squares.rs"]
mod squares;

use std::path::PathBuf;
use std::sync::Arc;

use cascade_rt::backend::{Backend, Program, cpu, cuda, wgpu};
use cascade_rt::ops::{self, Case, Element, Operand};
use cascade_rt::plan::{Plan, Recorder, Slot, Source};
use cascade_rt::registry::{self, Caps, Fit, Kernel, Lang, Launch};
use cascade_rt::tensor::{Dtype, Part, Weight};
use half::{bf16, f16};

/// Values in `[-1, 1)` around `mean`, from a fixed sequence.
fn noise(len: usize, seed: u32, mean: f32) -> Vec<f32> {
    (0..len as u32).map(|j| common::golden(seed, j) as f32 + mean).collect()
}

/// Learned values stored as `dtype`, stacked from two parts where the rows allow.
fn weight(dims: &[usize], seed: u32, dtype: Dtype) -> Weight {
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

/// A plan of one node, with what the host writes.
struct One {
    plan: Arc<Plan>,
    writes: Vec<(Slot, Vec<u8>)>,
    out: Slot,
}

/// How a case is stored.
#[derive(Debug, Clone, Copy)]
struct Stored {
    /// The learned values.
    dtype: Dtype,
    /// Whether the operand that may be overwritten is.
    state: bool,
    /// Whether gemm_inputs are stored in bf16, the result too.
    gemm_inputs: bool,
}

impl Stored {
    fn all() -> impl Iterator<Item = Stored> {
        let states = [(false, false), (true, false), (false, true)];
        let dtypes = [Dtype::F32, Dtype::Bf16, Dtype::F16];
        dtypes
            .into_iter()
            .flat_map(move |dtype| states.map(|(state, gemm_inputs)| Stored { dtype, state, gemm_inputs }))
    }
}

fn plan(case: &Case, Stored { dtype, state, gemm_inputs }: Stored) -> Option<One> {
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
    Some(One { plan: Arc::new(plan), writes, out })
}

impl One {
    /// Runs the plan; values are as real numbers whatever the element.
    fn run(&self, mut program: Box<dyn Program>) -> Vec<f32> {
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
}

/// Largest `|got − want| / (1 + |want|)`, and where.
fn worst(got: &[f32], want: &[f32]) -> (usize, f32) {
    let error = |i: usize| (got[i] - want[i]).abs() / (1.0 + want[i].abs());
    // NaN is worse than anything.
    let key = |e: f32| if e.is_nan() { f32::INFINITY } else { e };
    (0..got.len()).map(|i| (i, key(error(i)))).fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a })
}

/// Whether a row that this machine cannot run is to fail: `CASCADE_REQUIRE` lists
/// what the machine is meant to have, capabilities or devices, e.g. `avx2,wgpu,cuda`, or the emulated GPU, `cuda-emu`.
fn required(kernel: &Kernel) -> bool {
    let (devices, has) = match kernel.lang {
        Lang::Cpu => (["cpu", ""], vec![cpu::detect()]),
        Lang::Wgsl => (["wgpu", ""], wgpu::adapters().iter().map(|adapter| adapter.caps).collect()),
        Lang::Cuda => (["cuda", "cuda-emu"], cuda::usable().iter().map(|(_, device)| device.caps).collect()),
    };
    let lacking = has.iter().map(|caps| kernel.needs.without(*caps).to_string());
    let lacking: Vec<String> = if has.is_empty() { devices.map(String::from).into() } else { lacking.collect() };
    lacking.iter().flat_map(|all| all.split(" + ")).any(common::required)
}

/// Whether a list in the environment, of parts of names, leaves something of these names out; `=` before the whole last name
/// takes just that.
fn left_out(list: &str, names: &[&str]) -> bool {
    let takes = |part: &str| match part.strip_prefix('=') {
        Some(whole) => names.last() == Some(&whole),
        None => names.iter().any(|name| name.contains(part)),
    };
    std::env::var(list).is_ok_and(|list| !list.split(',').any(takes))
}

/// Runs the cases of its op that `kernel` serves on a device that has no more than it needs: how many, and
/// what differed.
fn check(kernel: &'static Kernel, backend: &dyn Backend) -> (usize, Vec<String>) {
    let reference = cpu::Cpu::reference();
    let (mut ran, mut failures) = (0, Vec::new());
    for (i, case) in ops::cases().iter().filter(|c| c.op.name() == kernel.op).enumerate() {
        for stored in Stored::all().filter(|stored| backend.device().stores_bf16() || !stored.gemm_inputs) {
            let Some(one) = plan(case, stored) else { continue };
            let (node, target) = (&one.plan.nodes[0], backend.device().target());
            // A tiling is tested on what it can do, not only on what it is best at.
            let tiling = kernel.fit.iter().any(Fit::is_preference);
            let rows = registry::admissible(node, &one.plan, target);
            let mut rows = rows.take(if tiling { usize::MAX } else { 1 });
            if !rows.any(|row| std::ptr::eq(row, kernel)) {
                continue; // the shape does not fit this row
            }
            let got = one.run(backend.compile_with(one.plan.clone(), &[kernel]).unwrap());
            let (at, error) = worst(&got, &one.run(reference.compile(one.plan.clone()).unwrap()));
            // Half a unit in the last place of a bf16 result.
            let stores = if stored.gemm_inputs { 1.0 / 256.0 } else { 0.0 };
            let limit = stores + if kernel.rounds() { case.tolerance_bf16 } else { case.tolerance };
            if error > limit {
                failures.push(format!(
                    "{} {} case {i} {stored:?}: {error:.2e} at {at}, allowed {limit:.0e}",
                    kernel.op, kernel.name
                ));
            }
            ran += 1;
        }
    }
    (ran, failures)
}

/// `CASCADE_LANG=cuda,wgsl` and `CASCADE_KERNELS=linear,attention` leave out what has no such name. Kernels of other
/// sources: `CASCADE_SHADER_DIR`, as for the program; `CASCADE_HOST_KERNELS`, see `tools/host-kernels`.
#[test]
fn every_kernel_matches_its_reference() {
    let shader_dir = std::env::var_os("CASCADE_SHADER_DIR").map(PathBuf::from);
    let with_just = |kernel, more| common::with_just(kernel, more, shader_dir.as_deref());
    let (mut all, mut failures) = (0, Vec::new());
    for kernel in registry::all() {
        let lang = format!("{:?}", kernel.lang).to_lowercase();
        if left_out("CASCADE_LANG", &[&lang]) || left_out("CASCADE_KERNELS", &[kernel.op, kernel.name]) {
            continue;
        }
        let Some(backend) = with_just(kernel, Caps::NONE) else {
            assert!(!required(kernel), "{} {}: CASCADE_REQUIRE demands {}", kernel.op, kernel.name, kernel.needs);
            eprintln!("SKIPPED {} {}: this machine lacks {}", kernel.op, kernel.name, kernel.needs);
            continue;
        };
        let checks_on = |gpu: &dyn Backend| [check(kernel, gpu), squares::check(kernel, gpu), gelu::check(kernel, gpu)];
        let mut checks = checks_on(backend.as_ref()).to_vec();
        // What stores gemm_inputs in bf16 hands them to exact kernels too.
        if let (Lang::Cuda, false) = (kernel.lang, kernel.rounds())
            && let Some(backend) = with_just(kernel, Caps::ROUND_BF16)
        {
            checks.extend(checks_on(backend.as_ref()));
        }
        let ran: usize = checks.iter().map(|(ran, _)| ran).sum();
        let differ: Vec<String> = checks.into_iter().flat_map(|(_, differ)| differ).collect();
        println!("{:20} {:28} {ran} cases, {} failed", kernel.op, kernel.name, differ.len());
        assert!(ran > 0, "{} {}: no case of its op fits it", kernel.op, kernel.name);
        all += ran;
        failures.extend(differ);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(all > 0, "no kernel was tested");
    println!("{all} kernel cases");
}

/// Wide subgroups are few in a group, and each takes several rows: as here, where a group has more rows
/// than software adapters have subgroups.
#[test]
fn subgroups_take_rows_in_turn() {
    let rows = "override ROWS: u32 = 8u;";
    let mut tested = 0;
    for kernel in registry::kernels(Lang::Wgsl).filter(|kernel| kernel.needs.contains(Caps::SUBGROUP)) {
        let Launch::Wgsl(shader) = kernel.launch else { panic!("{} is a shader", kernel.name) };
        let adapter = wgpu::adapters().iter().position(|adapter| adapter.caps.contains(kernel.needs));
        let (true, Some(adapter)) = (shader.source.contains(rows), adapter) else { continue };
        let folder = tempfile::tempdir().unwrap();
        let more = shader.source.replace(rows, "override ROWS: u32 = 128u;");
        std::fs::write(folder.path().join(format!("{}.wgsl", kernel.name)), more).unwrap();
        let backend = wgpu::Wgpu::with_caps(adapter, kernel.needs, Some(folder.path())).unwrap();
        let (ran, failures) = check(kernel, &backend);
        assert!(ran > 0 && failures.is_empty(), "{}: {failures:?}", kernel.name);
        tested += 1;
    }
    let any = wgpu::adapters().iter().any(|adapter| adapter.caps.contains(Caps::SUBGROUP));
    assert!(tested > 0 || !any, "no kernel has ROWS of this form");
}
