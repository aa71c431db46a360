//! The commands that measure (`bench`, `profile`, `kernels --bench`) on the built-in model, and the library calls that
//! they use.
#![cfg(all(feature = "cli", feature = "demo"))]

mod common;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Arc;

use cascade_rt::backend::Device;
use cascade_rt::demo;
use cascade_rt::measure::task::{Task, distinct};
use cascade_rt::model::Model;
use cascade_rt::ops::{Advance, Element};
use cascade_rt::pipeline;
use cascade_rt::plan::Plan;
use cascade_rt::plan::{Recorder, Source};
use cascade_rt::request::Request;
use cascade_rt::shape::Shape;
use cascade_rt::synth::{Preset, in_memory};
use cascade_rt::weights::{ModelPaths, Overrides};
use serde_json::Value;

const SMALL: [&str; 4] = ["--device", "cpu", "--steps", "3,2"];

fn program(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cascade-rt"));
    command.args(args).env_remove("CASCADE_MODEL").output().unwrap()
}

#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = program(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// The demo model's plan for a request with the flags `SMALL`.
fn demo_plan() -> Arc<Plan> {
    let paths = ModelPaths::find(Some(&demo::MODEL.unwrap().into()), None, &Overrides::default()).unwrap();
    let model = Model::open(&paths).unwrap();
    let request = Request { prompts: vec!["a".into()], width: 128, height: 128, steps: (3, 2), ..Request::default() };
    pipeline::plan(&model, &request).unwrap()
}

#[test]
fn time_runs_every_node_once_and_times_it() {
    for backend in common::exact() {
        let mut rec = Recorder::new();
        let counter = rec.input(Shape::vector(1), Element::U32);
        for _ in 0..5 {
            rec.update("counter", Advance, &[Some(Source::Slot(counter))], counter).unwrap();
        }
        let mut program = backend.compile(Arc::new(rec.finish())).unwrap();
        program.write(counter, bytemuck::bytes_of(&0u32)).unwrap();
        assert_eq!(program.time(0..5).unwrap().len(), 5);
        assert_eq!(program.time(1..3).unwrap().len(), 2);
        assert!(program.time(2..2).unwrap().is_empty());
        let mut bytes = [0; 4];
        program.read(counter, &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 7, "{}", backend.device().name);
    }
}

#[test]
fn peak_device_memory_is_recorded() {
    const BYTES: u64 = 8 << 20;
    for backend in common::exact() {
        let Device { name, copies_weights, .. } = backend.device().clone();
        let mut last = backend.peak_bytes().unwrap_or(0);
        assert!(last < BYTES, "{name}: nothing was allocated yet");
        for more in [1, 2] {
            let mut rec = Recorder::new();
            let slot = rec.input(Shape::vector((more * BYTES / 4) as usize), Element::F32);
            rec.keep(slot);
            let mut program = backend.compile(Arc::new(rec.finish())).unwrap();
            program.write(slot, &vec![0; (more * BYTES) as usize]).unwrap();
            drop(program);
            // Backends that share the host's memory do not report a peak.
            let Some(peak) = backend.peak_bytes() else { continue };
            assert!(copies_weights && peak >= more * BYTES && peak >= last, "{name}: {peak} after {last}");
            last = peak;
        }
    }
}

#[test]
fn ops_of_a_plan_run_on_their_own() {
    let plan = demo_plan();
    let tasks = distinct(&plan, true);
    let runs = |segment: &cascade_rt::plan::Segment| segment.nodes.len() * segment.repeats;
    let calls: usize = plan.segments.iter().map(runs).sum();
    assert_eq!(tasks.iter().map(|(_, calls)| calls).sum::<usize>(), calls);
    for backend in common::exact() {
        for (task, _) in &tasks {
            let kernels = task.kernels(backend.device().target());
            assert!(!kernels.is_empty() && kernels.iter().all(|kernel| kernel.op == task.op.name()));
            task.load_copies(backend.as_ref(), Some(kernels[0]), 2).unwrap().time(3).unwrap();
        }
    }
    // A task has the same cost as the node that it was extracted from.
    for node in &plan.nodes {
        assert_eq!(Task::of(&plan, node, true).cost(true), plan.cost(node, true), "{}", node.at);
    }
}

#[test]
fn models_in_memory_have_the_plans_of_real_ones() {
    let model = in_memory(Preset::Mid).unwrap();
    let request = Request { prompts: vec!["a".into()], ..Request::default() };
    let plan = pipeline::plan(&model, &request).unwrap();
    // Synthetic weights share memory on the host, but the plan counts each of them: 0.4 GB.
    assert!((380..440).contains(&(plan.weight_bytes(false) >> 20)), "{} MiB", plan.weight_bytes(false) >> 20);
}

#[test]
fn bench_measures_every_stage() {
    let args = ["bench", "--json", "--runs", "3", "--warmup", "0", "--sizes", "64,128x64", "--counts", "1,2"];
    let value = json(&[&args[..], &SMALL].concat());
    let results = value["results"].as_array().unwrap();
    let cells: Vec<_> = results.iter().map(|r| ["width", "height", "count"].map(|k| r[k].as_u64().unwrap())).collect();
    assert_eq!(cells, [[64, 64, 1], [64, 64, 2], [128, 64, 1], [128, 64, 2]]);
    for result in results {
        for part in ["load", "plan", "text", "stage_c", "stage_b", "stage_a", "encode", "picture"] {
            let spread = &result["seconds"][part];
            let [median, min, max] = ["median", "min", "max"].map(|k| number(&spread[k]));
            assert!(0.0 < min && min <= median && median <= max, "{part}: {spread}");
            assert_eq!(spread["runs"].as_array().unwrap().len(), 3);
        }
        let stages: f64 =
            ["text", "stage_c", "stage_b", "stage_a"].map(|p| number(&result["seconds"][p]["min"])).iter().sum();
        assert!(stages <= number(&result["seconds"]["picture"]["min"]));
        assert!(number(&result["activation_bytes"]) > 0.0 && number(&result["weight_bytes"]) > 1e7);
        assert!(!cfg!(target_os = "linux") || number(&result["peak_host_bytes"]) > 1e7);
        assert!(result["peak_device_bytes"].is_null(), "the CPU backend has no device memory");
    }
}

#[test]
fn bench_prints_tables() {
    let args = ["bench", "--runs", "1", "--warmup", "0", "--sizes", "64,128"];
    let text = stdout(&[&args[..], &SMALL].concat());
    for word in ["128×128 px, 1 picture", "median", "stage_c", "MiB of activations", "against the first"] {
        assert!(text.contains(word), "{text}\ndoes not contain {word}");
    }
    let table = stdout(&[&args[..], &["--markdown"], &SMALL].concat());
    assert_eq!(table.lines().filter(|line| line.starts_with("| ")).count(), 3, "{table}");
}

#[test]
fn profiles_add_up() {
    let ops: BTreeSet<String> = demo_plan().nodes.iter().map(|node| node.op.name().to_owned()).collect();
    for by in ["op", "stage", "kernel", "layer"] {
        let value = json(&[&["profile", "--json", "--warmup", "0", "--by", by][..], &SMALL].concat());
        let rows = value["rows"].as_array().unwrap();
        let sum = |key: &str| rows.iter().map(|row| number(&row[key])).sum::<f64>();
        assert!((sum("share") - 1.0).abs() < 1e-9, "{by}: shares sum to {}", sum("share"));
        assert!((sum("seconds") - number(&value["device_seconds"])).abs() < 1e-9);
        assert!(sum("seconds") <= number(&value["wall_seconds"]), "nodes cannot take longer than the whole run");
        let plan = demo_plan();
        let calls: usize = plan.segments.iter().map(|p| p.nodes.len() * p.repeats).sum();
        assert_eq!(sum("calls") as usize, calls);
        let seconds: Vec<f64> = rows.iter().map(|row| number(&row["seconds"])).collect();
        assert!(seconds.is_sorted_by(|a, b| a >= b), "the slowest must be first");
        assert!(rows.iter().all(|row| number(&row["bytes"]) > 0.0));
        if by == "op" {
            let names: BTreeSet<String> = rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
            assert_eq!(names, ops);
        }
    }
    let text = stdout(&[&["profile", "--warmup", "0", "--top", "2"][..], &SMALL].concat());
    assert!(text.contains("GFLOP/s") && text.contains("more; --top 0 shows all"), "{text}");
}

#[test]
fn traces_are_for_viewers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let args = ["profile", "--warmup", "0", "--trace", path.to_str().unwrap()];
    stdout(&[&args[..], &SMALL].concat());
    let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    // The spans of a track must not overlap.
    let track = |pid: u64, tid: u64| {
        let of = |e: &&Value| e["ph"] == "X" && e["pid"] == pid && e["tid"] == tid;
        let spans: Vec<_> = events
            .iter()
            .filter(of)
            .map(|e| (e["name"].as_str().unwrap(), number(&e["ts"]), number(&e["dur"])))
            .collect();
        for pair in spans.windows(2) {
            assert!(pair[0].1 + pair[0].2 <= pair[1].1 + 1e-3, "{pair:?} overlap");
        }
        spans
    };
    let stages: Vec<_> = track(1, 1).iter().map(|span| span.0).collect();
    assert_eq!(stages, ["text", "Stage C", "Stage B", "Stage A"]);
    let calls = track(1, 2);
    assert_eq!(calls.iter().filter(|call| call.0 == "step_c").count(), 3);
    let nodes = track(2, 3);
    let plan = demo_plan();
    let expected: usize = plan.segments.iter().map(|p| p.nodes.len() * p.repeats).sum();
    assert_eq!(nodes.len(), expected);
    // An existing file is not overwritten without --force.
    let again = program(&[&args[..], &SMALL].concat());
    assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
    stdout(&[&args[..], &["--force"], &SMALL].concat());
}

#[test]
fn kernels_are_compared() {
    let value = json(&[&["kernels", "--bench", "--json", "--op", "attention"][..], &SMALL].concat());
    let shapes = value["shapes"].as_array().unwrap();
    assert!(!shapes.is_empty());
    for shape in shapes {
        let kernels = shape["kernels"].as_array().unwrap();
        assert!(shape["op"] == "attention" && kernels.iter().all(|timed| number(&timed["seconds"]) > 0.0));
        let seconds = |name: &Value| number(&kernels.iter().find(|timed| timed["kernel"] == *name).unwrap()["seconds"]);
        let fastest = seconds(&shape["fastest"]);
        assert!(kernels.iter().all(|timed| number(&timed["seconds"]) >= fastest));
    }
    let text = stdout(&[&["kernels", "--bench", "--op", "gather"][..], &SMALL].concat());
    assert!(text.contains("chosen") && text.contains("would be saved"), "{text}");
}

/// The kernels of a GPU that is not here, by the number of its SMs.
#[test]
fn kernels_are_chosen_for_a_number_of_sms() {
    let chosen = |sms: &str| {
        let value = json(&[&["kernels", "--sms", sms, "--json", "--op", "linear"][..], &SMALL].concat());
        assert_eq!(value["sms"].to_string(), sms);
        let shapes = value["shapes"].as_array().unwrap().clone();
        assert!(!shapes.is_empty() && shapes.iter().all(|shape| shape["op"] == "linear"));
        shapes.iter().map(|shape| shape["kernel"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (many, few) = (chosen("132"), chosen("4"));
    assert!(many.iter().any(|kernel| kernel.ends_with(".sm90a")), "{many:?}");
    assert_ne!(many, few, "a few SMs are kept busy by larger tiles");
    let text = stdout(&[&["kernels", "--sms", "114", "--op", "attention"][..], &SMALL].concat());
    assert!(text.contains("attention.") && text.contains('×'), "{text}");
}

#[test]
fn mistakes_end_with_code_2() {
    let cases: &[(&[&str], &str)] = &[
        (&["bench", "--runs", "0"], "--runs"),
        (&["bench", "--runs", "1001"], "--runs"),
        (&["bench", "--warmup", "-1"], "--warmup"),
        (&["bench", "--sizes", "100"], "a multiple of 8"),
        (&["bench", "--sizes", "512,x"], "--sizes"),
        (&["bench", "--sizes", "99999992"], "16384"),
        (&["bench", "--counts", "0", "--runs", "1"], "1 to 1024 images"),
        (&["bench", "--counts", "a"], "--counts"),
        (&["bench", "--json", "--markdown"], "--markdown"),
        (&["bench", "--synthetic", "huge"], "mid, lite or large"),
        (&["bench", "--synthetic", "lite", "-m", "demo"], "--model"),
        (&["profile", "--by", "colour"], "--by"),
        (&["profile", "-W", "100"], "--width"),
        (&["profile", "--steps", "0,1"], "--steps"),
        (&["kernels", "--op", "linear"], "--bench"),
        (&["kernels", "--bench", "--dtype", "f8"], "--dtype"),
    ];
    for (args, word) in cases {
        let output = program(args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(message.contains("error: ") && message.contains(word), "{args:?}: {message}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}
