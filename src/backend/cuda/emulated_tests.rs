//! The backend on an emulated GPU: memory, the order of uploads, and a device that is lost.
#![cfg(test)]

use super::driver::Driver;
use super::emulated::Emulated;
use super::failing::{Failing, Told};
use super::fault::Fault;
use super::*;
use crate::backend::{Residency, devices};
use crate::ops::{Element, Function, Linear};
use crate::plan::{Recorder, Slot, Source};
use crate::registry;
use crate::shape::Shape;
use crate::tensor::Weight;

const SIDE: usize = 64;
/// Bytes of a layer's weight: several windows.
const LAYER: u64 = 4 * (SIDE * SIDE) as u64;

/// A GPU with so much memory, which fails when it is told to.
pub(super) fn device(free_bytes: u64) -> Cuda<Failing> {
    device_with(Caps::NONE, free_bytes)
}

pub(super) fn device_with(caps: Caps, free_bytes: u64) -> Cuda<Failing> {
    let mut emulated = Emulated::new(caps, true);
    emulated.device_mut().free_bytes = free_bytes;
    Cuda::new(Failing { inner: emulated, told: Told::default() })
}

/// What its driver was told, and what it did.
pub(super) fn told(gpu: &Cuda<Failing>) -> Told {
    gpu.context.driver().told.clone()
}

/// A linear layer for each weight, in a segment of its own, for so many rows.
fn layers(weights: &[Weight], rows: usize) -> (Arc<Plan>, Slot, Slot) {
    let mut rec = Recorder::new();
    let input = rec.input(Shape::matrix(rows, SIDE), Element::F32);
    let mut x = input;
    for weight in weights {
        rec.segment("layer");
        let mut inputs = vec![Some(Source::Slot(x)), Some(rec.weight(weight.clone()))];
        inputs.resize(8, None);
        x = rec.node(&weight.name, Linear { function: Function::Silu }, &inputs).unwrap();
        rec.keep(x);
    }
    (Arc::new(rec.finish()), input, x)
}

fn three_weights() -> [Weight; 3] {
    [(3, "one"), (5, "two"), (7, "three")].map(|(seed, name)| {
        let values = (0..SIDE * SIDE).map(|j| (j * seed % 97) as f32 / 400.0 - 0.1).collect();
        Weight::from_f32(name, &[SIDE, SIDE], values)
    })
}

pub(super) fn three_segments() -> (Arc<Plan>, Slot, Slot) {
    layers(&three_weights(), 4)
}

/// What the definitions of the ops give.
pub(super) fn exact(plan: &Arc<Plan>, input: Slot, out: Slot) -> Vec<f32> {
    run(crate::backend::cpu::Cpu::reference().compile(plan.clone()).unwrap().as_mut(), plan, input, out)
}

pub(super) fn is_close(got: &[f32], want: &[f32]) -> bool {
    got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5)
}

pub(super) fn try_run(program: &mut dyn Program, plan: &Plan, input: Slot, out: Slot) -> Result<Vec<f32>> {
    let values: Vec<f32> = (0..input.shape.elements()).map(|j| (j % 13) as f32 / 13.0).collect();
    program.write(input, bytemuck::cast_slice(&values))?;
    for segment in &plan.segments {
        program.run(segment.nodes.clone())?;
    }
    let mut result = vec![0f32; out.shape.elements()];
    program.read(out, bytemuck::cast_slice_mut(&mut result))?;
    Ok(result)
}

pub(super) fn run(program: &mut dyn Program, plan: &Plan, input: Slot, out: Slot) -> Vec<f32> {
    try_run(program, plan, input, out).unwrap()
}

#[test]
fn stages_take_turns_where_they_do_not_fit_together() {
    let (plan, input, out) = three_segments();
    let mut roomy = device(u64::MAX).compile(plan.clone()).unwrap();
    assert_eq!(roomy.residency(), Residency::All);
    let want = run(roomy.as_mut(), &plan, input, out);
    assert!(is_close(&want, &exact(&plan, input, out)), "every window is where it belongs");
    // Activations and one layer fit, two layers do not. The second time, graphs are of weights that are gone.
    let mut program = device(plan.arena_bytes() + LAYER).compile(plan.clone()).unwrap();
    assert_eq!(program.residency(), Residency::Turns);
    for _ in 0..2 {
        assert_eq!(run(program.as_mut(), &plan, input, out), want);
    }
    let Err(error) = device(LAYER).compile(plan) else { panic!("it does not fit") };
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(error.to_string().contains("1 MiB of activations and 1 MiB of weights of one stage"), "{error}");
}

#[test]
fn weights_that_only_gemms_read_are_stored_in_bf16_where_that_is_allowed() {
    let (plan, input, out) = three_segments();
    assert_eq!((plan.weight_bytes(false), plan.weight_bytes(true)), (3 * LAYER, 3 * LAYER / 2));
    let mut program = device_with(Caps::ROUND_BF16, plan.arena_bytes() + 3 * LAYER / 2).compile(plan.clone()).unwrap();
    assert_eq!(program.residency(), Residency::All);
    let rounded = run(program.as_mut(), &plan, input, out);
    let exact = exact(&plan, input, out);
    let worst = rounded.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!((1e-6..2e-2).contains(&worst), "{worst}");
}

#[test]
fn plans_of_other_sizes_and_shapes_share_weights() {
    let [one, two, three] = three_weights();
    let plans = [
        layers(&[one.clone(), two.clone(), three.clone()], 4),
        layers(&[one.clone(), two.clone(), three.clone()], 9),
        layers(&[one.clone(), two.clone()], 4),
        layers(&[three, one.clone(), two, one], 4),
    ];
    // Four programs, and one set of weights.
    let gpu = device(plans.iter().map(|(plan, ..)| plan.arena_bytes()).sum::<u64>() + 3 * LAYER);
    let compile = |(plan, ..): &(Arc<Plan>, Slot, Slot)| {
        let program = gpu.compile(plan.clone()).unwrap();
        assert_eq!(program.residency(), Residency::All, "weights that are there take nothing more");
        program
    };
    let mut programs: Vec<_> = plans.iter().map(compile).collect();
    let uploads = || told(&gpu).calls().iter().filter(|call| **call == "upload").count() as u64;
    for _ in 0..2 {
        for (program, (plan, input, out)) in programs.iter_mut().zip(&plans) {
            assert!(is_close(&run(program.as_mut(), plan, *input, *out), &exact(plan, *input, *out)));
        }
    }
    assert_eq!(uploads(), 3 * LAYER / Emulated::WINDOW, "each weight is uploaded once");
    // Whether the old program goes before the new one comes or after.
    programs.clear();
    let (plan, input, out) = &plans[1];
    for mut before in [None, Some(compile(&plans[0]))] {
        let mut program = compile(&plans[1]);
        drop(before.take());
        assert!(is_close(&run(program.as_mut(), plan, *input, *out), &exact(plan, *input, *out)));
    }
    assert_eq!(uploads(), 0);
}

#[test]
fn two_programs_take_turns() {
    let weights = three_weights();
    let plans = [layers(&weights, 4), layers(&weights[1..], 9)];
    // One layer has room, beside the activations of both.
    let gpu = device(plans.iter().map(|(plan, ..)| plan.arena_bytes()).sum::<u64>() + LAYER);
    let mut programs = plans.each_ref().map(|(plan, ..)| gpu.compile(plan.clone()).unwrap());
    assert!(programs.iter().all(|program| program.residency() == Residency::Turns));
    for _ in 0..2 {
        for (program, (plan, input, out)) in programs.iter_mut().zip(&plans) {
            assert!(is_close(&run(program.as_mut(), plan, *input, *out), &exact(plan, *input, *out)));
        }
    }
}

#[test]
fn a_program_whose_weights_another_one_dropped_runs_on() {
    let (plan, input, out) = three_segments();
    let gpu = device(2 * plan.arena_bytes() + 4 * LAYER);
    let mut all = gpu.compile(plan.clone()).unwrap();
    let want = run(all.as_mut(), &plan, input, out);
    // Somebody else takes memory; a second program must let the stages take turns.
    let other = gpu.context.call(|driver| driver.allocate(LAYER + 256)).unwrap();
    let mut turns = gpu.compile(plan.clone()).unwrap();
    assert_eq!(turns.residency(), Residency::Turns);
    assert_eq!(run(turns.as_mut(), &plan, input, out), want);
    drop((turns, other));
    assert_eq!(run(all.as_mut(), &plan, input, out), want, "its graphs held addresses that are gone");
}

#[test]
fn weights_go_up_while_earlier_segments_run() {
    let (plan, input, out) = three_segments();
    let gpu = device(u64::MAX);
    let mut program = gpu.compile(plan.clone()).unwrap();
    assert!(!told(&gpu).calls().contains(&"upload"), "nothing moves before the first run");
    run(program.as_mut(), &plan, input, out);
    let mut calls = told(&gpu).calls();
    // Kernels are loaded at any time, by other threads.
    calls.retain(|call| !["bind", "cubin"].contains(call));
    let order = |name| calls.iter().enumerate().filter(move |(_, call)| **call == name).map(|(i, _)| i);
    let replays: Vec<usize> = order("replay").collect();
    let orders: Vec<usize> = order("order").collect();
    let ahead = order("upload").filter(|&i| replays[0] < i && i < replays[1]).count();
    let own = order("upload").filter(|i| *i < replays[0]).count();
    assert_eq!(own as u64, LAYER / Emulated::WINDOW, "a segment's own weights come first");
    // One window while the device is busy with more than one run, then the rest before the next.
    assert_eq!(calls[replays[0] + 1..][..3], ["busy", "upload", "busy"], "{calls:?}");
    assert_eq!(ahead, own, "{calls:?}");
    assert_eq!(orders.len(), 3, "each segment waits for its own weights, once");
    assert!(orders.iter().zip(&replays).all(|(order, replay)| order < replay));
    run(program.as_mut(), &plan, input, out);
    assert!(!told(&gpu).calls().iter().any(|call| ["upload", "order"].contains(call)));
}

#[test]
fn launches_begin_early_after_other_launches_alone() {
    let mut rec = Recorder::new();
    let input = rec.input(Shape::matrix(4, SIDE), Element::F32);
    let mut x = input;
    for name in ["one", "two", "three"] {
        x = rec.node(name, crate::ops::Scale { factor: 2.0 }, &[Some(Source::Slot(x))]).unwrap();
    }
    rec.keep(x);
    let plan = Arc::new(rec.finish());
    for caps in [Caps::DEPENDENT_LAUNCH, Caps::NONE] {
        let early = if caps == Caps::NONE { "launch" } else { "dependent launch" };
        let gpu = device_with(caps, u64::MAX);
        let mut program = gpu.compile(plan.clone()).unwrap();
        let launches = || {
            let mut calls = told(&gpu).calls();
            calls.retain(|call| call.ends_with("launch"));
            calls
        };
        let values: Vec<f32> = (0..4 * SIDE).map(|j| j as f32).collect();
        program.write(input, bytemuck::cast_slice(&values)).unwrap();
        program.run(0..3).unwrap();
        assert_eq!(launches(), ["launch", early, early], "before a recording there is no launch");
        program.time(0..3).unwrap();
        assert_eq!(launches(), ["launch"; 3], "what is timed begins after what is not");
        let mut result = vec![0f32; 4 * SIDE];
        program.read(x, bytemuck::cast_slice_mut(&mut result)).unwrap();
        assert!(result.iter().zip(&values).all(|(y, x)| *y == 8.0 * x));
    }
}

/// The emulated GPU compares what kernels are told with what it has.
#[test]
fn kernels_are_told_how_many_sms_there_are() {
    for sms in [114, 78] {
        let mut emulated = Emulated::new(Caps::NONE, true);
        emulated.device_mut().sms = sms;
        let gpu = Cuda::new(Failing { inner: emulated, told: Told::default() });
        let (plan, input, out) = three_segments();
        run(gpu.compile(plan.clone()).unwrap().as_mut(), &plan, input, out);
    }
}

/// Where weights take turns, a launch that reads them before the one before it is over finds them there all the same: the first
/// launch of a segment begins after the uploads before it, and no upload goes to where a launch under way may read.
#[test]
fn weights_that_take_turns_are_there_before_any_launch_begins() {
    let (plan, input, out) = three_segments();
    let gpu = device_with(Caps::DEPENDENT_LAUNCH, plan.arena_bytes() + LAYER);
    let mut program = gpu.compile(plan.clone()).unwrap();
    assert_eq!(program.residency(), Residency::Turns);
    for round in 0..2 {
        told(&gpu).calls();
        run(program.as_mut(), &plan, input, out);
        let calls = told(&gpu).calls();
        // Between two replays: memory is given back when the device has finished, then come uploads, and what is replayed next
        // begins after them, with a launch that does not depend on the one before.
        let mut segments = calls.split(|call| *call == "replay").collect::<Vec<_>>();
        assert_eq!(segments.len(), 4, "{calls:?}");
        segments.pop();
        for (i, segment) in segments.into_iter().enumerate() {
            let at = |wanted: &str| segment.iter().position(|call| *call == wanted);
            let last_upload =
                segment.iter().rposition(|call| *call == "upload").expect("the layer's weight was not there");
            let (wait, order) = (at("wait"), at("order").expect("uploads are waited for"));
            let first = round == 0 && i == 0; // there is still room
            assert!(first || wait.is_some_and(|wait| wait < at("upload").unwrap()), "{segment:?}");
            assert!(
                last_upload < order && order < at("launch").expect("the first launch depends on none"),
                "{segment:?}"
            );
        }
    }
}

#[test]
fn hopper_runs_the_kernels_of_older_gpus_too() {
    let mut rec = Recorder::new();
    let input = rec.input(Shape::matrix(SIDE, SIDE), Element::GemmInput);
    let values = (0..SIDE * SIDE).map(|j| (j % 97) as f32 / 400.0 - 0.1).collect();
    let weight = rec.weight(Weight::from_f32("w", &[SIDE, SIDE], values));
    let mut inputs = vec![Some(Source::Slot(input)), Some(weight)];
    inputs.resize(8, None);
    let out = rec.node("y", Linear { function: Function::Silu }, &inputs).unwrap();
    rec.keep(out);
    let plan = Arc::new(rec.finish());
    let [newest, older] = [Caps::NONE, Caps::SM90A].map(|without| {
        let gpu = device_with(devices::wanted(devices::Rounding::Bf16, without), u64::MAX);
        let row = registry::choose(&plan.nodes[0], &plan, gpu.device().target()).0;
        assert_eq!(row.needs.contains(Caps::SM90A), without == Caps::NONE, "{}", row.name);
        let mut program = gpu.compile(plan.clone()).unwrap();
        let values: Vec<f32> = (0..SIDE * SIDE).map(|j| (j % 13) as f32 / 13.0).collect();
        program.write(input, bytemuck::cast_slice(&values)).unwrap();
        program.run(0..1).unwrap();
        let mut result = vec![0f32; SIDE * SIDE];
        program.read(out, bytemuck::cast_slice_mut(&mut result)).unwrap();
        result
    });
    assert!(newest.iter().zip(&older).all(|(a, b)| (a - b).abs() < 1e-5), "both multiply the same GEMM inputs");
}

#[test]
fn what_32_bits_cannot_count_does_not_fit() {
    let mut rec = Recorder::new();
    let input = rec.input(Shape::matrix(1 << 16, 1 << 16), Element::F32);
    rec.node("large", crate::ops::Scale { factor: 1.0 }, &[Some(Source::Slot(input))]).unwrap();
    let Err(error) = device(u64::MAX).compile(Arc::new(rec.finish())) else { panic!("it is too large") };
    assert!(error.exit_code() == 4 && error.to_string().contains("large (scale)"), "{error}");
}

#[test]
fn a_lost_device_stays_lost_and_says_why() {
    let (plan, input, out) = three_segments();
    for at in ["write", "upload", "order", "record", "replay", "busy", "read"] {
        let gpu = device(u64::MAX);
        let mut program = gpu.compile(plan.clone()).unwrap();
        told(&gpu).fail(at, Fault::Lost("illegal address".into(), "do this"));
        for _ in 0..2 {
            let error = try_run(program.as_mut(), &plan, input, out).unwrap_err();
            assert_eq!(error.exit_code(), 5, "{at}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("the device was lost (illegal address)") && text.ends_with("do this"),
                "{at}: {text}"
            );
        }
        assert!(gpu.free_bytes().is_err(), "nothing else is asked of it");
        let Err(error) = gpu.compile(plan.clone()) else { panic!("the device is lost") };
        assert_eq!(error.exit_code(), 5, "{error}");
    }
}

#[test]
fn memory_that_somebody_else_took_does_not_fit() {
    let (plan, input, out) = three_segments();
    let gpu = device(plan.arena_bytes() + LAYER);
    told(&gpu).fail("allocate", Fault::OutOfMemory(3 << 20));
    let Err(error) = gpu.compile(plan.clone()) else { panic!("it was refused") };
    assert!(error.exit_code() == 4 && error.to_string().contains("needs 3 MiB"), "{error}");
    // It was a moment's want, and the device is still of use: here, then between two stages.
    let mut program = gpu.compile(plan.clone()).unwrap();
    let want = run(program.as_mut(), &plan, input, out);
    told(&gpu).fail("allocate", Fault::OutOfMemory(LAYER));
    assert_eq!(try_run(program.as_mut(), &plan, input, out).unwrap_err().exit_code(), 4);
    assert_eq!(run(program.as_mut(), &plan, input, out), want);
}
