//! Counts the instructions of hot loops and of the host's overhead with valgrind, and compares them with `counts.json`.
//!
//! Unlike a time, a count does not depend on the load of the machine. To make it independent of the machine, too, the
//! tests use the AVX2 kernels and one thread, and count only inside of `counted`.
//!
//! After an intended change, or with another compiler, `CASCADE_COUNTS=update cargo test --release --test counts`
//! rewrites the file.
#![cfg(all(target_arch = "x86_64", not(debug_assertions)))]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cascade_rt::backend::Backend;
use cascade_rt::backend::cpu::Cpu;
use cascade_rt::model::Model;
use cascade_rt::noise::{NoiseGenerator, NoiseKind, NoiseStream};
use cascade_rt::ops::{self, Affine, Element, Function, Op};
use cascade_rt::pipeline;
use cascade_rt::plan::{Recorder, Source};
use cascade_rt::registry::Caps;
use cascade_rt::request::Request;
use cascade_rt::shape::Shape;
use cascade_rt::tensor::{Dtype, Part, Weight};
use cascade_rt::weights::{ModelPaths, Overrides};
use half::bf16;

/// How much a count may exceed the one in the file. Counts of one program vary by less than 0.1 %; the rest allows for
/// changes elsewhere that influence the compiler's optimisations.
const MARGIN: f64 = 0.05;

/// How often the work is repeated while it is counted.
const TIMES: usize = 10;

/// Work that can be repeated.
type Work = Box<dyn FnMut()>;

/// A name, and a function that prepares the work.
type Case = (&'static str, fn() -> Work);

/// The work that is counted. Kernels are named by op and shapes, with bf16 weights in brackets.
const CASES: &[Case] = &[
    ("linear 64x256 [512x256]", || {
        let op = ops::Linear { function: Function::Identity };
        kernel(op, &[x(1, 1, 64, 256), w(&[512, 256]), w(&[512]), None, None, None, None, None])
    }),
    ("linear 1x512 [512x512]", || {
        let op = ops::Linear { function: Function::Identity };
        kernel(op, &[x(1, 1, 1, 512), w(&[512, 512]), w(&[512]), None, None, None, None, None])
    }),
    ("attention 64 + 16 tokens, 4 heads of 64", || {
        let op = ops::Attention { heads: 4, head_dim: 64, self_part: true, causal: false };
        kernel(op, &[x(1, 1, 64, 768), x(1, 1, 16, 512), None])
    }),
    ("feed_forward 8x8x96", || {
        let weights = [w(&[6]), w(&[384, 96]), w(&[384]), w(&[96, 384]), w(&[96])];
        kernel(ops::FeedForward { eps: 1e-6 }, &[&[x(1, 8, 8, 96)], &weights[..]].concat())
    }),
    ("conv_transpose2d 8x8x64 [64x32x4x4]", || {
        let op = ops::ConvTranspose2d { stride: 2, padding: 1 };
        kernel(op, &[x(1, 8, 8, 64), w(&[64, 32, 4, 4]), w(&[32])])
    }),
    ("depthwise_norm 16x16x128", || {
        kernel(ops::DepthwiseNorm { eps: 1e-6 }, &[x(1, 16, 16, 128), w(&[128, 1, 3, 3]), w(&[128])])
    }),
    ("layer_norm 16x16x128", || {
        kernel(ops::LayerNorm { eps: 1e-6, affine: Affine::None }, &[x(1, 16, 16, 128), None, None])
    }),
    ("grn_scale 16x16x512", || kernel(ops::GrnScale { eps: 1e-6 }, &[x(1, 16, 16, 512), w(&[512])])),
    ("noise of torch, 16x24x24", || {
        let mut generator = NoiseGenerator::new(NoiseKind::Torch, 1, NoiseStream::StageC, 0..1);
        Box::new(move || generator.draw(Shape::new(1, 24, 24, 16), &mut Vec::new()))
    }),
    ("host: 1000 nodes run", nodes),
    ("host: the demo's plan recorded", || {
        let (model, request) = model("models/demo");
        Box::new(move || drop(pipeline::plan(&model, &request).unwrap()))
    }),
];

/// An operand: the shape of an activation, or the dimensions of a weight.
#[derive(Clone)]
enum Operand {
    Slot(Shape),
    Weight(Vec<usize>),
}

fn x(n: usize, h: usize, w: usize, c: usize) -> Option<Operand> {
    Some(Operand::Slot(Shape::new(n, h, w, c)))
}

fn w(dims: &[usize]) -> Option<Operand> {
    Some(Operand::Weight(dims.to_vec()))
}

/// A program with one node, whose operands are numbers between -0.5 and 0.5.
fn kernel(op: impl Into<Op>, inputs: &[Option<Operand>]) -> Work {
    let number = |i: usize| i.wrapping_mul(2_654_435_761) as u32 as f32 / u32::MAX as f32 - 0.5;
    let mut rec = Recorder::new();
    let mut slots = Vec::new();
    let mut source = |operand: &Operand| match operand {
        Operand::Slot(shape) => {
            slots.push(rec.input(*shape, Element::F32));
            Source::Slot(slots[slots.len() - 1])
        }
        Operand::Weight(dims) => {
            let len: usize = dims.iter().product();
            let values: Vec<bf16> = (0..len).map(|i| bf16::from_f32(number(i))).collect();
            let part = Part::new(Arc::new(values), 0..2 * len, Dtype::Bf16);
            rec.weight(Weight::new("counted", dims.clone(), vec![part]))
        }
    };
    let inputs: Vec<_> = inputs.iter().map(|input| input.as_ref().map(&mut source)).collect();
    let out = rec.node("counted", op, &inputs).unwrap();
    // Kept slots are not overwritten, so that every repetition has the same inputs.
    slots.iter().chain([&out]).for_each(|slot| rec.keep(*slot));
    let mut program = Cpu::with_caps(Caps::AVX2).compile(Arc::new(rec.finish())).unwrap();
    for slot in slots {
        let values: Vec<f32> = (0..slot.shape.elements()).map(number).collect();
        program.write(slot, bytemuck::cast_slice(&values)).unwrap();
    }
    Box::new(move || program.run(0..1).unwrap())
}

/// A program of 1000 nodes that do almost nothing, so that the count is the host's overhead per node.
fn nodes() -> Work {
    let mut rec = Recorder::new();
    let counter = rec.input(Shape::vector(1), Element::U32);
    for _ in 0..1000 {
        rec.update("counter", ops::Advance, &[Some(Source::Slot(counter))], counter).unwrap();
    }
    let mut program = Cpu::with_caps(Caps::AVX2).compile(Arc::new(rec.finish())).unwrap();
    program.write(counter, &[0; 4]).unwrap();
    Box::new(move || program.run(0..1000).unwrap())
}

/// A model in the checkout, and a request for 128×128 pixels in 3 and 2 steps.
fn model(folder: &str) -> (Model, Request) {
    let paths = ModelPaths::find(Some(&common::root().join(folder).into()), None, &Overrides::default()).unwrap();
    let prompts = vec!["a red apple".to_owned()];
    (Model::open(&paths).unwrap(), Request { prompts, width: 128, height: 128, steps: (3, 2), ..Request::default() })
}

/// Valgrind counts only the instructions of this function and its callees.
#[inline(never)]
fn counted(work: &mut Work, times: usize) {
    for _ in 0..times {
        work();
    }
}

/// Runs the case that an environment variable names. `count` runs this test under valgrind.
#[test]
#[ignore = "the other tests run it under valgrind"]
fn work() {
    let Ok(name) = std::env::var("CASCADE_COUNTED") else { return };
    // The thread pool consists of the calling thread.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().unwrap();
    let make = CASES.iter().find(|case| case.0 == name).unwrap().1;
    let mut work = make();
    // The first call, which includes one-time initialisation, is not counted.
    work();
    counted(&mut work, std::env::var("CASCADE_TIMES").unwrap().parse().unwrap());
}

/// The number of instructions of `times` repetitions of a case.
fn count(name: &str, times: usize) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("counts");
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=counts::counted*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["work", "--exact", "--ignored", "--test-threads=1"])
        // The size of the environment would change the alignment of the stack.
        .env_clear()
        .envs([("CASCADE_COUNTED", name), ("CASCADE_TIMES", &times.to_string())])
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(std::env::var_os("CASCADE_ROOT").map(|root| ("CASCADE_ROOT", root)))
        .output()
        .unwrap();
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    let text = std::fs::read_to_string(&out).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("summary: ")).unwrap().trim().parse().unwrap();
    assert!(total > 10_000, "{name}: only {total} instructions were counted, so `counted` was not recognised");
    total
}

/// Whether a count exceeds the known one by more than the margin.
fn worse(count: u64, known: u64) -> bool {
    count as f64 > known as f64 * (1.0 + MARGIN)
}

fn baseline() -> PathBuf {
    common::root().join("tests/counts.json")
}

fn known(path: &Path) -> BTreeMap<String, u64> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Whether valgrind is installed. If not, prints that the test is skipped, or fails with `CASCADE_REQUIRE=valgrind`.
fn can_count() -> bool {
    let found = Command::new("valgrind").arg("--version").output().is_ok_and(|done| done.status.success());
    if !found {
        assert!(!common::required("valgrind"), "CASCADE_REQUIRE demands valgrind, but it is not installed");
        eprintln!("SKIPPED: valgrind is not installed");
    }
    found
}

#[test]
fn hot_loops_take_no_more_instructions_than_before() {
    if !can_count() {
        return;
    }
    let counts: BTreeMap<_, _> = CASES.iter().map(|case| (case.0.to_owned(), count(case.0, TIMES))).collect();
    if std::env::var("CASCADE_COUNTS").is_ok_and(|what| what == "update") {
        return std::fs::write(baseline(), format!("{:#}\n", serde_json::json!(counts))).unwrap();
    }
    let known = known(&baseline());
    assert!(known.keys().eq(counts.keys()), "counts.json has other cases: {:?}; update it", known.keys());
    let mut failures = 0;
    for (name, &count) in &counts {
        let change = 100.0 * (count as f64 / known[name] as f64 - 1.0);
        failures += usize::from(worse(count, known[name]));
        println!("{change:+6.1} %  {count:>10} instructions, {name}");
    }
    assert_eq!(failures, 0, "cases that exceed counts.json by more than {:.0} % (see above)", 100.0 * MARGIN);
}

#[test]
fn ten_percent_more_work_is_detected() {
    if !can_count() {
        return;
    }
    for name in ["layer_norm 16x16x128", "host: 1000 nodes run"] {
        let [once, again, more] = [TIMES, TIMES, TIMES + TIMES / 10].map(|times| count(name, times));
        assert!(once.abs_diff(again) * 1000 <= once, "{name}: {once}, then {again}");
        assert!(worse(more, once) && !worse(again, once) && !worse(once, more));
    }
}
