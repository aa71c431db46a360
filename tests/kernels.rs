//! Every kernel row on every case of its op, against the op's reference.
//! A new op or a new row is tested without touching this file.

mod common;
#[path = "kernels/gelu.rs"]
mod gelu;
#[path = "kernels/matrices.rs"]
mod matrices;
#[path = "kernels/parts.rs"]
mod parts;
#[path = "kernels/repeats.rs"]
mod repeats;
#[path = "kernels/squares.rs"]
mod squares;

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cascade_rt::backend::{Backend, cpu, cuda, wgpu};
use cascade_rt::check::cases::{self, One, Stored};
use cascade_rt::ops::Case;
use cascade_rt::plan::Plan;
use cascade_rt::registry::{self, Caps, Fit, Kernel, Lang, Launch};
use cascade_rt::tensor::Dtype;

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

/// What the environment asks of a run.
#[derive(Debug, Clone, Copy)]
struct Mode {
    /// `CASCADE_FAIL_FAST`: the first case that differs is enough.
    fail_fast: bool,
    /// `CASCADE_DIGESTS`: no kernel runs; for each row, all that its cases give it and expect of it goes into one number,
    /// for `tools/mutate`, which keeps its verdicts as long as that number stays the same.
    digests: bool,
    /// `CASCADE_QUICK`: each case is stored in one way, and large ones are left out, where each run takes long.
    quick: bool,
}

impl Mode {
    fn of_environment() -> Mode {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| value != "0");
        Mode {
            fail_fast: is_set("CASCADE_FAIL_FAST"),
            digests: is_set("CASCADE_DIGESTS"),
            quick: is_set("CASCADE_QUICK"),
        }
    }
}

/// What came of the cases of a row.
#[derive(Debug, Default)]
struct Checked {
    /// How many cases ran.
    ran: usize,
    /// What differed.
    failures: Vec<String>,
    /// Of the cases.
    digest: DefaultHasher,
    /// Other kernels that ran with this one.
    with: Vec<&'static str>,
    /// The device's name.
    device: String,
}

/// Runs the cases of its op that `kernel` serves on a device that has no more than it needs; of those, the ones that
/// `wanted` wants.
fn check(
    kernel: &'static Kernel,
    backend: &dyn Backend,
    mode: Mode,
    wanted: impl Fn(&Case, Stored) -> bool,
    checked: &mut Checked,
) {
    for (i, case) in cases::of(kernel.op).filter(|(_, case)| !(mode.quick && cases::is_large(case))) {
        for stored in Stored::all(case).filter(|stored| stored.is_on(backend.device())) {
            if mode.fail_fast && !checked.failures.is_empty() {
                return;
            }
            let Some(one) = One::of(i, stored).filter(|_| wanted(case, stored)) else { continue };
            let (plan, target) = (one.plan(), backend.device().target());
            // A tiling is tested on what it can do, not only on what it is best at.
            let tiling = kernel.fit.iter().any(Fit::is_preference);
            let rows = registry::admissible(&plan.nodes[0], plan, target);
            let mut rows = rows.take(if tiling { usize::MAX } else { 1 });
            if !rows.any(|row| std::ptr::eq(row, kernel)) {
                continue; // the shape does not fit this row
            }
            checked.ran += 1;
            if mode.digests {
                (one.allowed(kernel).to_bits(), target.caps.to_string()).hash(&mut checked.digest);
                digest(&one, &mut checked.digest);
            } else {
                let got = one.run(backend.compile_with(plan.clone(), &[kernel]).unwrap()).unwrap();
                let difference = one.difference(&got, kernel);
                checked.failures.extend(difference.map(|found| format!("{} {} {found}", kernel.op, kernel.name)));
            }
            if cases::is_large(case) || mode.quick {
                break;
            }
        }
    }
}

/// Adds to `digest` all of a case that a kernel could depend on, and what is expected of it.
fn digest(one: &One, digest: &mut DefaultHasher) {
    let Plan { nodes, slots, weights, gemm_only, arena_len, .. } = &**one.plan();
    let on_device = [false, true].map(|stores_bf16| one.plan().weight_dtypes(stores_bf16));
    format!("{nodes:?} {slots:?} {gemm_only:?} {on_device:?} {arena_len}").hash(digest);
    one.writes().iter().for_each(|(_, bytes)| bytes.hash(digest));
    weights.iter().flat_map(|weight| weight.parts()).for_each(|part| part.bytes().hash(digest));
    one.reference().iter().for_each(|value| value.to_bits().hash(digest));
}

/// All checks of one row. `None` if this machine lacks what it needs, and need not have it.
fn check_row(kernel: &'static Kernel, mode: Mode) -> Option<Checked> {
    let shader_dir = std::env::var_os("CASCADE_SHADER_DIR").map(PathBuf::from);
    let with_just = |more| common::with_just(kernel, more, shader_dir.as_deref());
    let Some(backend) = with_just(Caps::NONE) else {
        assert!(!required(kernel), "{} {}: CASCADE_REQUIRE demands {}", kernel.op, kernel.name, kernel.needs);
        eprintln!("SKIPPED {} {}: this machine lacks {}", kernel.op, kernel.name, kernel.needs);
        return None;
    };
    let mut checked = Checked { device: backend.device().name.clone(), ..Checked::default() };
    check(kernel, backend.as_ref(), mode, |_, _| true, &mut checked);
    squares::check(kernel, backend.as_ref(), mode, &mut checked);
    parts::check(kernel, backend.as_ref(), shader_dir.as_deref(), mode, &mut checked);
    gelu::check(kernel, backend.as_ref(), mode, &mut checked);
    // What stores GEMM inputs in bf16 hands them to exact kernels too. All else is there as it was above.
    if let (Lang::Cuda, false) = (kernel.lang, kernel.rounds())
        && let Some(backend) = with_just(Caps::ROUND_BF16)
    {
        let differs = |case: &Case, stored| cases::depends_on_bf16(case, stored) && !cases::is_large(case);
        check(kernel, backend.as_ref(), mode, differs, &mut checked);
        squares::check(kernel, backend.as_ref(), mode, &mut checked);
    }
    assert!(checked.ran > 0, "{} {}: no case of its op fits it", kernel.op, kernel.name);
    Some(checked)
}

/// How a row is launched, as far as it is not in the kernel's own text.
fn launch(kernel: &Kernel) -> String {
    match kernel.launch {
        Launch::Cpu(_) => String::new(),
        Launch::Wgsl(shader) => format!("{:?} {:?} {:?}", shader.passes, shader.scratch, shader.tunables),
        Launch::Cuda(cuda) => {
            format!("{:?} {:?} {:?} {:?} {:?}", cuda.passes, cuda.scratch, cuda.counters, cuda.tiles, cuda.squares)
        }
    }
}

/// `CASCADE_LANG=cuda,wgsl` and `CASCADE_KERNELS=linear,attention` leave out what has no such name. Kernels of other
/// sources: `CASCADE_SHADER_DIR`, as for the program; `CASCADE_HOST_KERNELS`, see `tools/host-kernels`.
#[test]
fn every_kernel_matches_its_reference() {
    let mode = Mode::of_environment();
    let rows: Vec<&'static Kernel> = registry::all()
        .filter(|kernel| {
            let lang = format!("{:?}", kernel.lang).to_lowercase();
            !left_out("CASCADE_LANG", &[&lang]) && !left_out("CASCADE_KERNELS", &[kernel.op, kernel.name])
        })
        .collect();
    let (next, all, failures) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(kernel) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            // One kernel that goes wrong does not keep others from being tested.
            let outcome = catch_unwind(AssertUnwindSafe(|| check_row(kernel, mode)));
            let checked = match outcome {
                Ok(None) => continue,
                Ok(Some(checked)) => checked,
                Err(_) => {
                    failures.lock().unwrap().push(format!("{} {}: it panicked, see above", kernel.op, kernel.name));
                    continue;
                }
            };
            let (ran, failed, seconds) = (checked.ran, checked.failures.len(), start.elapsed().as_secs_f32());
            let mut line = format!("{:20} {:28} {ran} cases, {failed} failed, {seconds:.1} s", kernel.op, kernel.name);
            if mode.digests {
                let mut digest = checked.digest;
                (launch(kernel), format!("{:?} {:?}", kernel.needs, kernel.fit)).hash(&mut digest);
                let (with, lang, device) = (checked.with, kernel.lang, checked.device);
                write!(line, ", digest {:016x} with {with:?} on {lang:?} {device}", digest.finish()).unwrap();
            }
            println!("{line}");
            all.fetch_add(ran, Ordering::Relaxed);
            failures.lock().unwrap().extend(checked.failures);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(rows.len());
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    let (failures, all) = (failures.into_inner().unwrap(), all.into_inner());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(all > 0, "no kernel was tested");
    println!("{all} kernel cases");
}

/// All cases of `kernel` with its shader changed, on an adapter that has what it needs; `false` where there is none.
fn check_changed(kernel: &'static Kernel, from: &str, to: &str) -> bool {
    let Launch::Wgsl(shader) = kernel.launch else { panic!("{} is a shader", kernel.name) };
    let Some(adapter) = wgpu::adapters().iter().position(|a| a.caps.contains(kernel.needs)) else { return false };
    assert!(shader.source.contains(from), "{}: no {from:?}", kernel.name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(format!("{}.wgsl", kernel.name)), shader.source.replace(from, to)).unwrap();
    let backend = wgpu::Wgpu::with_caps(adapter, kernel.needs, Some(folder.path())).unwrap();
    let mut checked = Checked::default();
    check(kernel, &backend, Mode::of_environment(), |_, _| true, &mut checked);
    assert!(checked.ran > 0 && checked.failures.is_empty(), "{}: {:?}", kernel.name, checked.failures);
    true
}

/// Wide subgroups are few in a group, and each takes several rows: as here, where a group has more rows
/// than software adapters have subgroups.
#[test]
fn subgroups_take_rows_in_turn() {
    let rows = "override ROWS: u32 = 8u;";
    let in_turn = |kernel: &&Kernel| matches!(kernel.launch, Launch::Wgsl(shader) if shader.source.contains(rows));
    let kernels = registry::kernels(Lang::Wgsl).filter(|kernel| kernel.needs.contains(Caps::SUBGROUP)).filter(in_turn);
    let tested = kernels.filter(|kernel| check_changed(kernel, rows, "override ROWS: u32 = 128u;")).count();
    let any = wgpu::adapters().iter().any(|adapter| adapter.caps.contains(Caps::SUBGROUP));
    assert!(tested > 0 || !any, "no kernel has ROWS of this form");
}

/// No case has more rows than a band; with smaller bands, several follow one another, each in the same memory.
#[test]
fn bands_of_rows_follow_one_another() {
    let in_bands = |kernel: &&Kernel| matches!(kernel.launch, Launch::Wgsl(shader) if !shader.band.is_empty());
    let kernels = registry::kernels(Lang::Wgsl).filter(in_bands);
    let tested = kernels.filter(|kernel| check_changed(kernel, "BAND: u32 = 512u;", "BAND: u32 = 64u;")).count();
    assert!(tested > 0 || wgpu::adapters().is_empty(), "no kernel works in bands");
}

/// Devices that copy weights have those of int8 widened: their kernels make of them what the definition does.
#[test]
fn gpus_widen_int8() {
    for backend in common::exact().iter().filter(|backend| backend.device().copies_weights) {
        let device = backend.device();
        for (i, case) in cases::of("linear").filter(|(_, case)| !cases::is_large(case)) {
            let stored = Stored { dtype: Dtype::I8, state: false, gemm_inputs: false };
            let Some(one) = One::of(i, stored) else { continue };
            let kernel = registry::choose(&one.plan().nodes[0], one.plan(), device.target()).0;
            let got = one.run(backend.compile(one.plan().clone()).unwrap()).unwrap();
            let difference = one.difference(&got, kernel);
            assert!(difference.is_none(), "{}, {}, {case:?}: {}", device.name, kernel.name, difference.unwrap());
        }
    }
}
