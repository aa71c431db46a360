//! The WGSL backend where kernels are not the question: memory, loss, shaders of one's own.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use cascade_rt::backend::wgpu::{Less, Wgpu, adapters};
use cascade_rt::backend::{Backend, Program, Residency};
use cascade_rt::ops::{Element, Function, Linear};
use cascade_rt::plan::{Plan, Recorder, Slot, Source};
use cascade_rt::registry::Caps;
use cascade_rt::shape::Shape;
use cascade_rt::tensor::Weight;
#[cfg(feature = "demo")]
use cascade_rt::{Footprint, Model, Observer, Options, Pipeline, Request, pipeline};

/// The first adapter, or a loud skip; `CASCADE_REQUIRE=wgpu` makes that a failure.
fn device() -> Option<Wgpu> {
    if adapters().is_empty() {
        assert!(!common::required("wgpu"), "CASCADE_REQUIRE demands wgpu, no adapter answers");
        eprintln!("SKIPPED: no adapter of wgpu answers");
        return None;
    }
    Some(Wgpu::open(0, false, None).unwrap())
}

/// The first adapter with less than it has.
fn with(less: Less) -> Wgpu {
    Wgpu::with_less(0, adapters()[0].caps, None, less).unwrap()
}

fn with_memory(bytes: u64) -> Wgpu {
    with(Less { memory: Some(bytes), ..Less::default() })
}

const SIDE: usize = 64;
/// More than the variants for few rows take.
const ROWS: usize = 16;
/// Bytes that a program of up to four nodes takes beside activations and weights: the buffer that is bound in place of an
/// absent operand, scratch memory, and parameters.
const SMALL: u64 = 2 * 256 + 5 * 256;

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
    [(1, "one"), (2, "two"), (3, "three")].map(|(seed, name)| {
        let values = (0..SIDE * SIDE).map(|j| common::golden(seed, j as u32) as f32 / 8.0).collect();
        Weight::from_f32(name, &[SIDE, SIDE], values)
    })
}

fn three_segments() -> (Arc<Plan>, Slot, Slot) {
    layers(&three_weights(), ROWS)
}

fn run(program: &mut dyn Program, plan: &Plan, input: Slot, out: Slot) -> cascade_rt::error::Result<Vec<f32>> {
    let values: Vec<f32> = (0..input.shape.elements() as u32).map(|j| common::golden(9, j) as f32).collect();
    program.write(input, bytemuck::cast_slice(&values))?;
    for segment in &plan.segments {
        program.run(segment.nodes.clone())?;
    }
    let mut result = vec![0f32; out.shape.elements()];
    program.read(out, bytemuck::cast_slice_mut(&mut result))?;
    Ok(result)
}

#[test]
fn stages_take_turns_where_they_do_not_fit_together() {
    let Some(roomy) = device() else { return };
    let (plan, input, out) = three_segments();
    let want = run(roomy.compile(plan.clone()).unwrap().as_mut(), &plan, input, out).unwrap();
    let layer = 4 * (SIDE * SIDE) as u64;
    // Activations and one layer fit, two layers do not.
    let tight = with_memory(plan.arena_bytes() + SMALL + layer);
    let mut program = tight.compile(plan.clone()).unwrap();
    assert_eq!(program.residency(), Residency::Turns);
    for _ in 0..2 {
        assert_eq!(run(program.as_mut(), &plan, input, out).unwrap(), want);
    }
    let tiny = with_memory(layer);
    let Err(error) = tiny.compile(plan) else { panic!("it does not fit") };
    assert_eq!(error.exit_code(), 4, "{error}");
}

#[test]
fn plans_of_other_sizes_and_shapes_share_weights() {
    let Some(roomy) = device() else { return };
    let [one, two, three] = three_weights();
    let plans = [
        layers(&[one.clone(), two.clone(), three.clone()], ROWS),
        layers(&[one.clone(), two.clone()], 2 * ROWS),
        layers(&[three, one.clone(), two, one], ROWS),
    ];
    let want = plans
        .each_ref()
        .map(|(plan, input, out)| run(roomy.compile(plan.clone()).unwrap().as_mut(), plan, *input, *out).unwrap());
    let layer = 4 * (SIDE * SIDE) as u64;
    let others = plans.iter().map(|(plan, ..)| plan.arena_bytes() + SMALL).sum::<u64>();
    // With room for all weights once, then for one layer of one program at a time.
    for (residency, layers) in [(Residency::All, 3), (Residency::Turns, 1)] {
        let gpu = with_memory(others + layers * layer);
        let mut programs = plans.each_ref().map(|(plan, ..)| gpu.compile(plan.clone()).unwrap());
        assert!(programs.iter().all(|program| program.residency() == residency));
        for _ in 0..2 {
            for ((program, (plan, input, out)), want) in programs.iter_mut().zip(&plans).zip(&want) {
                assert_eq!(run(program.as_mut(), plan, *input, *out).unwrap(), *want);
            }
        }
        assert!(gpu.free_bytes().unwrap() < (layers + 1) * layer, "what activations take is not free");
        drop(programs);
        assert_eq!(gpu.free_bytes().unwrap(), others + layers * layer);
    }
}

/// Before anything runs, so that a smaller batch can be tried.
#[test]
fn what_one_binding_cannot_hold_does_not_compile() {
    let Some(gpu) = device() else { return };
    let mut rec = Recorder::new();
    // 4 GiB less a little: no device binds so much at once.
    let input = rec.input(Shape::matrix((1 << 15) - 1, 1 << 15), Element::F32);
    rec.node("large", cascade_rt::ops::Scale { factor: 1.0 }, &[Some(Source::Slot(input))]).unwrap();
    let Err(error) = gpu.compile(Arc::new(rec.finish())) else { panic!("it is too large") };
    assert!(
        error.exit_code() == 4 && error.to_string().contains("MiB in one binding, large (scale) needs 4096 MiB"),
        "{error}"
    );
}

#[test]
fn a_lost_device_is_an_error_and_a_new_one_goes_on() {
    let Some(gpu) = device() else { return };
    let (plan, input, out) = three_segments();
    let mut program = gpu.compile(plan.clone()).unwrap();
    let want = run(program.as_mut(), &plan, input, out).unwrap();
    program.run(0..1).unwrap();
    gpu.lose();
    for _ in 0..2 {
        let error = run(program.as_mut(), &plan, input, out).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
        assert!(error.to_string().contains("the device was lost"), "{error}");
    }
    let Err(error) = gpu.compile(plan.clone()) else { panic!("the device is lost") };
    assert_eq!(error.exit_code(), 5, "{error}");

    let again = device().unwrap();
    assert_eq!(run(again.compile(plan.clone()).unwrap().as_mut(), &plan, input, out).unwrap(), want);
}

#[test]
fn shaders_from_a_folder() {
    if device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = || Wgpu::with_caps(0, Caps::NONE, Some(folder.path()));
    let (plan, input, out) = three_segments();
    let shipped = include_str!("../shaders/linear.vec4.wgsl");
    let file = folder.path().join("linear.vec4.wgsl");

    // The shipped text gives the shipped result.
    std::fs::write(&file, shipped).unwrap();
    let want = run(device().unwrap().compile(plan.clone()).unwrap().as_mut(), &plan, input, out).unwrap();
    let got = run(open().unwrap().compile(plan.clone()).unwrap().as_mut(), &plan, input, out).unwrap();
    assert!(common::relative_l2(&got, &want) < 1e-6);

    // Another text is what runs.
    std::fs::write(&file, shipped.replace("fn main(", "fn other(")).unwrap();
    let Err(error) = open().unwrap().compile(plan.clone()) else { panic!("there is no main") };
    assert!(error.to_string().contains("linear.vec4.wgsl") && error.to_string().contains("`main`"), "{error}");

    // A broken one is quoted with its line.
    std::fs::write(&file, format!("{shipped}\nfn broken() -> f32 {{ return 1u; }}\n")).unwrap();
    let Err(error) = open().unwrap().compile(plan.clone()) else { panic!("it is broken") };
    let line = format!("linear.vec4.wgsl:{}", shipped.lines().count() + 2);
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains(&line) && error.to_string().contains("return 1u"), "{error}");

    // What shaders share can be replaced as well, and a mistake in it is found there.
    std::fs::remove_file(&file).unwrap();
    let (shared, text) = (folder.path().join("common.wgsl"), include_str!("../shaders/common.wgsl"));
    std::fs::write(&shared, text.replace("case SILU: { return x /", "case SILU: { return 2.0 * x /")).unwrap();
    let got = run(open().unwrap().compile(plan.clone()).unwrap().as_mut(), &plan, input, out).unwrap();
    assert!(common::relative_l2(&got, &want) > 0.1);
    std::fs::write(&shared, format!("{text}\nfn broken() -> f32 {{ return 1u; }}\n")).unwrap();
    let Err(error) = open().unwrap().compile(plan.clone()) else { panic!("it is broken") };
    let line = format!("this is line {} of {}", text.lines().count() + 2, shared.display());
    assert!(error.exit_code() == 2 && error.to_string().contains(&line), "{error}");

    // A folder or a file that replaces nothing is a mistake.
    std::fs::remove_file(&shared).unwrap();
    let Err(error) = open() else { panic!("no shader is there") };
    assert!(error.to_string().contains("no file here is called KERNEL.wgsl"), "{error}");
    std::fs::write(folder.path().join("liner.wgsl"), shipped).unwrap();
    let Err(error) = open() else { panic!("no kernel is called so") };
    assert!(error.to_string().contains("liner") && error.to_string().contains("cascade-rt kernels"), "{error}");
}

#[test]
fn a_submission_that_the_driver_gave_up_is_an_error() {
    let Some(gpu) = device() else { return };
    let (plan, input, out) = three_segments();
    let mut program = gpu.compile(plan.clone()).unwrap();
    let want = run(program.as_mut(), &plan, input, out).unwrap();
    gpu.lose_submission();
    let error = run(program.as_mut(), &plan, input, out).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(error.to_string().contains("gave up 1 of the submissions"), "{error}");
    assert_eq!(run(program.as_mut(), &plan, input, out).unwrap(), want, "the next run is complete");
}

/// A wrong kernel is found when the device is opened, and what needs its capability is not used.
#[test]
fn a_capability_whose_kernels_compute_something_else_is_dropped() {
    let Some(able) = device() else { return };
    let caps = able.device().caps;
    let suspects = Caps::SUBGROUP;
    let open = |folder: Option<&Path>| Wgpu::with_less(0, caps, folder, Less { suspects, ..Less::default() }).unwrap();
    assert_eq!((open(None).device().caps, &open(None).device().faults), (caps, &vec![]), "they are right");
    if !caps.contains(suspects) {
        return eprintln!("SKIPPED: the first adapter has no subgroups");
    }
    let folder = tempfile::tempdir().unwrap();
    let shipped = include_str!("../shaders/layer_norm.subgroup.wgsl");
    let result = "affine((value(base + ch) - mean) * rstd, ch)";
    let something_else = "computes something else than `layer_norm`";
    // A kernel that depends on what its result held before, as one that races may.
    let stale = format!("{result} + 1e-5 * min(1.0, abs(out[base + ch]))");
    for (right, wrong, how) in [
        (result, "affine((value(base + ch) - mean) * rstd * 1.01, ch)", something_else),
        ("let d =", "let d = f32(lane) +", something_else),
        (result, &stale, "computes something else each time"),
    ] {
        assert!(shipped.contains(right));
        std::fs::write(folder.path().join("layer_norm.subgroup.wgsl"), shipped.replace(right, wrong)).unwrap();
        let gpu = open(Some(folder.path()));
        assert_eq!(gpu.device().caps, caps.without(suspects));
        let [fault] = &gpu.device().faults[..] else { panic!("{:?}", gpu.device().faults) };
        assert!(fault.contains("`layer_norm.subgroup`") && fault.contains(how), "{fault}");
        assert!(fault.contains("need subgroup are not used"), "{fault}");
        let (plan, input, out) = three_segments();
        assert!(run(gpu.compile(plan.clone()).unwrap().as_mut(), &plan, input, out).is_ok());
    }
}

#[test]
fn what_is_too_long_for_one_dispatch_or_one_submission_gives_the_same_bytes() {
    let Some(gpu) = device() else { return };
    let (plan, input, out) = layers(&three_weights(), 1000);
    let want = run(gpu.compile(plan.clone()).unwrap().as_mut(), &plan, input, out).unwrap();
    for less in [
        Less { groups: Some(2), ..Less::default() },
        Less { submission: Some(1), ..Less::default() },
        Less { submission: Some(1_000_000), ..Less::default() },
    ] {
        let mut program = with(less).compile(plan.clone()).unwrap();
        assert_eq!(run(program.as_mut(), &plan, input, out).unwrap(), want, "{less:?}");
        let times = program.time(0..plan.nodes.len()).unwrap();
        assert!(times.len() == plan.nodes.len() && times.iter().all(|time| !time.is_zero()), "{less:?}: {times:?}");
    }
}

/// How many pictures each batch had.
#[cfg(feature = "demo")]
#[derive(Default)]
struct Batches(Vec<usize>);

#[cfg(feature = "demo")]
impl Observer for Batches {
    fn planned(&mut self, footprint: &Footprint) {
        self.0.push(footprint.images);
    }
}

/// Two pictures where a binding, or a buffer, holds what one of them takes.
#[cfg(feature = "demo")]
#[test]
fn a_batch_is_as_large_as_the_device_allows() {
    if device().is_none() {
        return;
    }
    let model = Model::demo().unwrap();
    let request = |count| Request { width: 128, height: 128, steps: (1, 1), count, ..Request::new("a fox") };
    let plan = |count| pipeline::plan(&model, &request(count)).unwrap();
    let largest = |plan: &Plan| plan.slots.iter().map(|slot| 4 * slot.len as u64).max().unwrap();
    let weights = plan(1).weights.iter().map(|w| w.parts().iter().map(|part| part.bytes().len() as u64).sum()).max();
    let [one, two] = [1, 2].map(|count| (largest(&plan(count)).max(weights.unwrap()), plan(count).arena_bytes()));
    assert!(one.0 < two.0 && one.1 < two.1, "the limits are those of activations");
    let run = |less| {
        let mut batches = Batches::default();
        let mut pipeline = Pipeline::new(Model::demo().unwrap(), Box::new(with(less))).unwrap();
        let mut images = Vec::new();
        let options = Options { observer: Some(&mut batches), ..Options::default() };
        let keep = |batch: pipeline::Batch| {
            images.extend(batch.images);
            Ok(())
        };
        pipeline.run(&request(2), options, keep).map(|_| (batches.0, images))
    };
    let (together, want) = run(Less::default()).unwrap();
    assert_eq!(together, [2]);
    for less in [Less { binding: Some(one.0), ..Less::default() }, Less { buffer: Some(one.1), ..Less::default() }] {
        let (apart, got) = run(less).unwrap();
        assert_eq!(apart, [1], "{less:?}");
        for (got, want) in got.iter().zip(&want) {
            // Other kernels serve other numbers of rows.
            assert!(got.rgb.iter().zip(&want.rgb).all(|(a, b)| a.abs_diff(*b) <= 1), "{less:?}");
        }
    }
    let error = run(Less { binding: Some(one.0 / 2), ..Less::default() }).unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().contains("MiB in one binding"), "{error}");
}

/// A Vulkan driver that does `body` when it is asked for anything, as the loader finds it.
fn driver(folder: &Path, body: &str) -> PathBuf {
    let source = folder.join("driver.rs");
    let entry = "#[unsafe(no_mangle)] pub extern \"C\" fn vk_icdGetInstanceProcAddr(_: usize, _: usize) -> usize";
    let entry = format!(
        "{entry} {{ {body} }}\n{}",
        entry.replace("GetInstanceProcAddr(_: usize, _: usize)", "NegotiateLoaderICDInterfaceVersion(_: usize)")
    );
    std::fs::write(&source, format!("{entry} {{ 0 }}")).unwrap();
    let built = Command::new(option_env!("RUSTC").unwrap_or("rustc"))
        .args(["--edition=2024", "--crate-type=cdylib", "-o"])
        .arg(folder.join("driver.so"))
        .arg(&source)
        .status();
    assert!(built.unwrap().success());
    let manifest = folder.join("driver.json");
    let library = folder.join("driver.so");
    let json = format!(
        "{{\"file_format_version\": \"1.0.0\", \"ICD\": {{\"library_path\": {library:?}, \"api_version\": \"1.3.0\"}}}}"
    );
    std::fs::write(&manifest, json).unwrap();
    manifest
}

fn program(args: &[&str], driver: Option<&Path>) -> Output {
    let mut command = common::program();
    command.args(args).env_remove("XDG_RUNTIME_DIR").env("CASCADE_MODEL", common::root().join("models/demo"));
    if let Some(driver) = driver {
        // The old name and the new one.
        command.env("VK_ICD_FILENAMES", driver).env("VK_DRIVER_FILES", driver);
    }
    command.output().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_driver_that_crashes_takes_nothing_with_it() {
    if device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = driver(folder.path(), "eprintln!(\"driver chatter\"); std::process::abort()");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();

    let listed = program(&["devices"], Some(&driver));
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    assert!(text(&listed.stdout).contains("wgpu     a graphics driver crashed (signal: 6"), "{listed:?}");
    assert!(listed.stderr.is_empty(), "{listed:?}");

    let picture = folder.path().join("a.png");
    let generate = |device| {
        let tiny = ["-W", "64", "-H", "64", "--steps", "1,1", "--force", "-o", picture.to_str().unwrap()];
        let args: Vec<_> = ["generate", "a fox", "--device", device].into_iter().chain(tiny).collect();
        program(&args, Some(&driver))
    };
    let made = generate("auto");
    assert!(made.status.success() && picture.exists(), "{made:?}");
    assert!(text(&made.stderr).contains("warning: a graphics driver crashed"), "{made:?}");
    assert!(!text(&made.stderr).contains("chatter"), "{made:?}");
    let refused = generate("wgpu");
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(text(&refused.stderr).contains("--device cpu"), "{refused:?}");
    assert!(generate("cpu").status.success());
}

/// Mesa's layer asks Wayland for a desktop, which says that there is none.
#[test]
fn drivers_do_not_talk_over_the_program() {
    if device().is_none() {
        return;
    }
    let listed = program(&["devices"], None);
    assert!(listed.status.success() && listed.stderr.is_empty(), "{listed:?}");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("text.safetensors");
    let made = program(&["encode", "--prompt", "a", "--device", "wgpu", "-o", out.to_str().unwrap()], None);
    assert!(made.status.success(), "{made:?}");
    let printed = String::from_utf8(made.stderr).unwrap();
    assert!(!printed.contains("XDG") && !printed.contains("MESA"), "{printed}");
}

/// Host time for each dispatch, without what the device does. Printed, not asserted.
#[test]
#[ignore = "a measurement: cargo test --release --test wgpu -- --ignored --nocapture"]
fn host_cost_of_a_dispatch() {
    let Some(gpu) = device() else { return };
    let mut rec = Recorder::new();
    let mut x = rec.input(Shape::vector(64), Element::F32);
    const NODES: usize = 2000;
    for _ in 0..NODES {
        x = rec.node("add", cascade_rt::ops::Add, &[Some(Source::Slot(x)), Some(Source::Slot(x))]).unwrap();
    }
    rec.keep(x);
    let plan = Arc::new(rec.finish());
    let mut program = gpu.compile(plan).unwrap();
    let mut bytes = vec![0; 256];
    let mut micros: Vec<f64> = (0..20)
        .map(|_| {
            let start = std::time::Instant::now();
            program.run(0..NODES).unwrap();
            let spent = start.elapsed().as_secs_f64() * 1e6 / NODES as f64;
            program.read(x, &mut bytes).unwrap();
            spent
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    println!("{:.2} µs a dispatch, least {:.2}, most {:.2}", micros[10], micros[0], micros[19]);
}
