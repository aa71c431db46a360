//! Loading kernels on an emulated GPU: what is loaded, when, and drivers that fail.
#![cfg(test)]

use super::driver::{Driver, Geometry, Image, Loader, Needs};
use super::emulated::Emulated;
use super::emulated_tests::{device, device_with, exact, is_close, run, three_segments, told, try_run};
use super::failing::Failing;
use super::fault::Fault;
use super::*;
use crate::error::Error;
use crate::registry::{self, Launch};

#[test]
fn only_what_waits_may_begin_early() {
    let gpu = Emulated::new(Caps::DEPENDENT_LAUNCH, false);
    let geometry = Geometry { grid: [1; 3], threads: 256, cluster: [1; 2], shared: 0 };
    for (capability, may) in [((8, 0), false), ((9, 0), true)] {
        let ptx = Image::Ptx(code::ptx("add", capability).unwrap());
        let add = &gpu.loader().load(ptx, &["add"], Needs { shared: 0, carveout: None }).unwrap()[0];
        let launch = |dependent| gpu.launch(add, geometry, &bytemuck::Zeroable::zeroed(), None, dependent);
        assert_eq!((launch(false).is_ok(), launch(true).is_ok()), (true, may));
    }
}

#[test]
fn a_driver_that_refuses_cubins_compiles_ptx() {
    let (plan, input, out) = three_segments();
    let gpu = device(u64::MAX);
    told(&gpu).fail("cubin", Fault::Refused("CUDA_ERROR_INVALID_IMAGE".into()));
    let mut program = gpu.compile(plan.clone()).unwrap();
    assert!(is_close(&run(program.as_mut(), &plan, input, out), &exact(&plan, input, out)));
    let mut calls = told(&gpu).calls();
    calls.retain(|call| ["cubin", "ptx"].contains(call));
    assert_eq!(calls, ["cubin", "ptx"]);
}

#[test]
fn only_what_a_plan_needs_is_loaded_and_only_once() {
    let (plan, input, out) = three_segments();
    let gpu = device(u64::MAX);
    for _ in 0..2 {
        let mut program = gpu.compile(plan.clone()).unwrap();
        run(program.as_mut(), &plan, input, out);
    }
    let names: Vec<String> = told(&gpu).loaded().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["linear"], "three layers, two programs, one kernel");
    assert!(!told(&gpu).calls().contains(&"ptx"), "there is a cubin");
}

#[test]
fn kernels_that_fail_to_load_are_an_error_of_the_segment_that_needs_them() {
    let (plan, input, out) = three_segments();
    for (call, fault, code, said) in [
        ("cubin", Fault::Lost("an illegal memory access".into(), "do this"), 5, "lost (an illegal memory access)"),
        ("cubin", Fault::OutOfMemory(1 << 20), 4, "needs 1 MiB"),
        ("cubin", Fault::Other("named symbol not found".into(), "do that"), 5, "named symbol not found"),
    ] {
        let gpu = device(u64::MAX);
        told(&gpu).fail(call, fault);
        let mut program = gpu.compile(plan.clone()).unwrap();
        let error = try_run(program.as_mut(), &plan, input, out).unwrap_err();
        assert!(error.exit_code() == code && error.to_string().contains(said), "{error}");
        if !said.starts_with("lost") {
            // Nothing of it stays: what is compiled next tries again.
            let mut again = gpu.compile(plan.clone()).unwrap();
            assert!(is_close(&run(again.as_mut(), &plan, input, out), &exact(&plan, input, out)), "{said}");
        }
    }
}

#[test]
fn kernels_for_most_of_an_sm_are_given_its_shared_memory() {
    let row = |name| registry::kernels(Lang::Cuda).find(|kernel| kernel.name == name).unwrap();
    let modules = |name: &'static str| {
        let gpu = device_with(Caps::SM90A, u64::MAX);
        gpu.modules.of(&[row(name)])[0].functions().unwrap();
        told(&gpu).loaded()
    };
    let needs = |shared, carveout| Needs { shared, carveout };
    let norm = modules("depthwise_norm.512.sm90a");
    assert_eq!(norm, [("depthwise_norm_512_sm90a".to_owned(), needs(104 << 10, Some(100)))], "two blocks on an SM");
    assert_eq!(modules("add"), [("add".to_owned(), needs(0, None))], "L1 is of more use to it");
    // Every launch is given no more than was asked for; the emulated driver sees to that in all other tests.
    for kernel in registry::kernels(Lang::Cuda) {
        let Launch::Cuda(cuda) = kernel.launch else { unreachable!("rows of CUDA are CUDA") };
        let Needs { shared, carveout } = Needs::of(&cuda);
        assert!(shared <= 227 << 10 && carveout.is_some() == (shared > 0), "{}", kernel.name);
    }
}

#[test]
fn any_call_may_fail() {
    let (plan, input, out) = three_segments();
    let all = |gpu: &Cuda<Failing>| -> Result<Vec<f32>> {
        let mut program = gpu.compile(plan.clone())?;
        program.time(0..3)?;
        try_run(program.as_mut(), &plan, input, out)
    };
    let gpu = device(u64::MAX);
    all(&gpu).unwrap();
    let mut names = told(&gpu).calls();
    names.sort_unstable();
    names.dedup();
    for name in names {
        for fault in [
            Fault::OutOfMemory(5 << 20),
            Fault::Lost("what the driver says".into(), "what to do"),
            Fault::Refused("what the driver says".into()),
            Fault::Other("what the driver says".into(), "what to do"),
        ] {
            let gpu = device(u64::MAX);
            told(&gpu).fail(name, fault.clone());
            let done = all(&gpu);
            // PTX takes the place of a cubin; weights that do not fit together take turns.
            let recovers = matches!((name, &fault), ("cubin", Fault::Refused(_)) | ("allocate", Fault::OutOfMemory(_)));
            assert_eq!(done.is_ok(), recovers, "{name}, {fault:?}");
            let Err(error) = done else { continue };
            let (code, said) =
                if matches!(fault, Fault::OutOfMemory(_)) { (4, "5 MiB") } else { (5, "what the driver says") };
            assert!(error.exit_code() == code && error.to_string().contains(said), "{name}: {error}");
        }
    }
}

#[test]
fn an_old_driver_is_told_which_one_is_needed() {
    let mut gpu = device(u64::MAX);
    // Of a GPU that no cubin is for.
    gpu.modules.loader.inner.capability = (7, 5);
    told(&gpu).fail("ptx", Fault::Refused("CUDA_ERROR_UNSUPPORTED_PTX_VERSION".into()));
    let (plan, input, out) = three_segments();
    let mut program = gpu.compile(plan.clone()).unwrap();
    let error = try_run(program.as_mut(), &plan, input, out).unwrap_err();
    assert!(matches!(error, Error::Device { .. }) && error.exit_code() == 5);
    let text = error.to_string();
    assert!(text.contains("UNSUPPORTED_PTX_VERSION; it needs driver 525 (CUDA 12.0) or above"), "{text}");
    let mut again = gpu.compile(plan.clone()).unwrap();
    assert!(try_run(again.as_mut(), &plan, input, out).is_ok(), "nothing was lost");
}

#[test]
fn kernels_are_loaded_while_weights_are_uploaded() {
    let (plan, input, out) = three_segments();
    let gpu = device(u64::MAX);
    // Each goes on when the other has begun: neither waits for the other to end.
    told(&gpu).hold("upload", "cubin");
    told(&gpu).hold("cubin", "upload");
    let mut program = gpu.compile(plan.clone()).unwrap();
    assert!(is_close(&run(program.as_mut(), &plan, input, out), &exact(&plan, input, out)));
}
