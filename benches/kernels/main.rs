//! Times every kernel on every device, at the shapes of pictures of 1024×1024 pixels with and without guidance.
//!
//! The kernels come from the registry and the shapes from recorded plans, so new ones are included automatically. Calls
//! cycle through several copies of the operands, so that they do not find them in a cache. Times are those of the device.
//!
//! ```text
//! cargo bench -- attention                           benchmarks whose name `op/kernel/device/operands` matches
//! cargo bench -- --quick linear/linear.avx512        fewer samples; to compare runs: --save-baseline, --baseline
//! cargo bench --bench kernels -- --json [attention]  one line of JSON per operation of tools/compare
//!
//! CASCADE_BENCH_DEVICES=cpu,wgpu:0   the devices to use; default: all except software adapters
//! CASCADE_BENCH_MODEL=lite           the preset whose shapes are used, mid, lite or large; default: large
//! ```

mod compared;

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::time::Duration;

use cascade_rt::backend::devices::{self, Choice};
use cascade_rt::backend::{Backend, Kind};
use cascade_rt::measure::roofline::Ceilings;
use cascade_rt::measure::task::{Operand, Task, distinct};
use cascade_rt::ops::{self, Case, Element};
use cascade_rt::pipeline;
use cascade_rt::registry::{self, Caps, Kernel};
use cascade_rt::request::Request;
use cascade_rt::synth::{self, Preset};
use cascade_rt::tensor::Dtype;
use criterion::{Criterion, SamplingMode, Throughput};

/// The devices named in the environment, or all that are not software adapters.
fn choices() -> Vec<Choice> {
    if let Ok(names) = std::env::var("CASCADE_BENCH_DEVICES") {
        let parse = |name: &str| name.trim().parse().unwrap_or_else(|e| panic!("CASCADE_BENCH_DEVICES: `{name}`: {e}"));
        return names.split(',').map(parse).collect();
    }
    let (software, hardware): (Vec<_>, Vec<_>) =
        devices::all().into_iter().partition(|(_, device)| device.kind == Kind::Software);
    for (choice, device) in software {
        eprintln!("SKIPPED {choice} ({}): slow; use CASCADE_BENCH_DEVICES={choice} to time it", device.name);
    }
    hardware.into_iter().map(|(choice, _)| choice).collect()
}

/// The distinct ops of a 1024×1024 picture with and without guidance, and the first test case of every other op.
fn tasks(stores_bf16: bool) -> Vec<Task> {
    let preset = std::env::var("CASCADE_BENCH_MODEL").map_or(Ok(Preset::Large), |name| name.parse());
    let model = synth::in_memory(preset.expect("CASCADE_BENCH_MODEL names a preset")).expect("the preset is valid");
    let mut all: Vec<Task> = Vec::new();
    for guidance in [(4.0, 4.0), (0.0, 0.0)] {
        let request = Request { prompts: vec![String::new()], guidance, ..Request::default() };
        let plan = pipeline::plan(&model, &request).expect("the networks fit together");
        for (task, _) in distinct(&plan, stores_bf16) {
            if !all.contains(&task) {
                all.push(task);
            }
        }
    }
    for op in ops::NAMES {
        if all.iter().all(|task| task.op.name() != *op) {
            all.extend(ops::cases().iter().find(|case| case.op.name() == *op).map(of_case));
        }
    }
    all
}

/// A test case as a task, with weights in bf16.
fn of_case(case: &Case) -> Task {
    let operand = |operand: &ops::Operand| match operand {
        ops::Operand::Slot(shape) | ops::Operand::Values(shape, _) => Operand::Slot(*shape, Element::F32),
        ops::Operand::Index(shape, _) => Operand::Slot(*shape, Element::U32),
        ops::Operand::Weight(dims) => Operand::Weight(dims.clone(), vec![(dims.iter().product(), Dtype::Bf16)]),
    };
    let inputs = case.inputs.iter().map(|input| input.as_ref().map(operand)).collect();
    Task { op: case.op.clone(), inputs, result: case.op.element() }
}

/// Benchmarks every kernel of a device.
fn device(criterion: &mut Criterion, choice: Choice) {
    let backend = devices::open(choice, devices::wanted(devices::Rounding::Bf16, Caps::NONE), None)
        .unwrap_or_else(|error| panic!("{error}"));
    let tasks = tasks(backend.device().stores_bf16());
    let (mut fitting, mut left_out) = (Vec::new(), 0);
    for task in &tasks {
        match task.fits(backend.as_ref()) {
            true => fitting.push((task, task.kernels(backend.device().target()))),
            false => left_out += 1,
        }
    }
    if left_out > 0 {
        eprintln!("SKIPPED on {choice}: {left_out} tasks that do not fit into its memory");
    }
    let ceilings = OnceCell::new();
    for kernel in registry::kernels(backend.device().lang) {
        let mut group = criterion.benchmark_group(format!("{}/{}", kernel.op, kernel.name));
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        group.sampling_mode(SamplingMode::Flat);
        let mut names: HashMap<String, usize> = HashMap::new();
        for (task, _) in fitting.iter().filter(|(_, kernels)| kernels.iter().any(|k| std::ptr::eq(*k, kernel))) {
            let mut name = format!("{choice}/{task}");
            // Tasks may have equal operands but other constants, so names are made unique.
            let same = names.entry(name.clone()).or_default();
            *same += 1;
            if *same > 1 {
                name = format!("{name}#{same}");
            }
            let cost = task.cost(backend.device().stores_bf16());
            group.throughput(match cost.flops {
                0 => Throughput::Bytes(cost.bytes),
                flops => Throughput::ElementsAndBytes { elements: flops, bytes: cost.bytes },
            });
            let best = Cell::new(f64::INFINITY);
            let mut loaded = None;
            group.bench_function(&name, |bencher| {
                let loaded = loaded.get_or_insert_with(|| load(task, backend.as_ref(), kernel));
                bencher.iter_custom(|calls| {
                    let time = loaded.time(calls).expect("it runs");
                    best.set(best.get().min(time.as_secs_f64() / calls as f64));
                    time
                });
            });
            if best.get().is_finite() {
                let ceilings = ceilings.get_or_init(|| {
                    let ceilings = Ceilings::measure(backend.as_ref()).expect("the device works");
                    println!("{choice} {} has ceilings {ceilings}", backend.device().name);
                    ceilings
                });
                let (bound, rate) = (ceilings.bound(cost), |work: u64| work as f64 / best.get() / 1e9);
                println!(
                    "{:24}best: {:.1} GFLOP/s, {:.1} GB/s, {:.0} % of the {} ceiling\n",
                    "",
                    rate(cost.flops),
                    rate(cost.bytes),
                    100.0 * bound.seconds / best.get(),
                    bound.limit
                );
            }
        }
        group.finish();
    }
}

fn load(task: &Task, backend: &dyn Backend, kernel: &'static Kernel) -> cascade_rt::measure::task::Loaded {
    task.load(backend, Some(kernel)).expect("it compiles")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().position(|a| a == "--json") {
        Some(at) => compared::json(arguments.get(at + 1).map_or("", String::as_str)),
        None => {
            let mut criterion = Criterion::default().configure_from_args();
            choices().into_iter().for_each(|choice| device(&mut criterion, choice));
            criterion.final_summary();
        }
    }
}
