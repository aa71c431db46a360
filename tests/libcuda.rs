//! The program on CUDA drivers that are old, damaged or fail at some call: `libcuda/stub.c`, which computes nothing. So it is the part
//! which calls the driver that is tested here, and which the emulated GPU of other tests replaces.
#![cfg(all(target_os = "linux", feature = "cli", feature = "demo", feature = "cuda-emu"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

const STUB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libcuda/stub.c");

/// A folder with a driver's library of this source, compiled with these flags.
fn driver(source: &str, flags: &[String]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stub.c");
    fs::write(&file, source).unwrap();
    // Both names that a library may be asked for by.
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("libcuda.so")).args(flags).arg(&file);
    assert!(cc.status().expect("there is a C compiler, as the emulator needs one").success());
    fs::copy(folder.path().join("libcuda.so"), folder.path().join("libcuda.so.1")).unwrap();
    folder
}

static WHOLE: LazyLock<tempfile::TempDir> = LazyLock::new(|| driver(&fs::read_to_string(STUB).unwrap(), &[]));

/// Makes a picture on a driver.
fn generate(driver: &Path, settings: &[(&str, &str)], words: &[&str]) -> Output {
    let room = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_cascade-rt"));
    program.args(["generate", "a red apple", "-W", "64", "-H", "64", "--steps", "1,1", "--device", "cuda"]).args(words);
    program.current_dir(room.path()).env_clear().env("LD_LIBRARY_PATH", driver).envs(settings.iter().copied());
    program.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The calls of one run, and names of what was loaded.
fn calls(settings: &[(&str, &str)], words: &[&str]) -> Vec<String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap().to_owned();
    let done = generate(WHOLE.path(), &[&[("STUB_LOG", path.as_str())][..], settings].concat(), words);
    assert!(done.status.success(), "{}", said(&done));
    fs::read_to_string(log.path()).unwrap().lines().map(str::to_owned).collect()
}

/// The functions that the stub has.
fn functions() -> Vec<String> {
    let text = fs::read_to_string(STUB).unwrap();
    let name = |line: &str| {
        let rest = line.strip_prefix("CALL(").or_else(|| line.strip_prefix("int "))?;
        rest.starts_with("cu").then(|| rest.split([',', '(']).next().unwrap().to_owned())
    };
    text.lines().filter_map(name).collect()
}

/// An error of a device, in the words of people, and nothing that is meant for a debugger.
fn is_clear(output: &Output, what: &str) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(5), "{what}: {text}");
    for word in ["panicked", "DriverError", "Some(", "Err(", "RUST_BACKTRACE"] {
        assert!(!text.contains(word), "{what}: {text}");
    }
}

#[test]
fn a_driver_that_has_all_functions_runs() {
    let calls = calls(&[], &["--dtype", "bf16"]);
    for function in functions() {
        let measures = ["cuEventElapsedTime", "cuGetErrorName", "cuGetErrorString"].contains(&function.as_str());
        // Rings of four windows, which small models do not go round.
        let waits = function == "cuEventSynchronize";
        assert!(measures || waits || calls.contains(&function), "{function} is not called");
    }
    let loads = |of: &str| calls.iter().filter(|call| *call == of).count();
    assert!(loads("cubin") > 20 && loads("ptx") == 0, "{} cubins", loads("cubin"));
    let kernels: Vec<_> = calls.iter().filter(|call| !call.starts_with("cu")).collect();
    assert!(kernels.iter().any(|name| name.ends_with("_sm90a")), "it is a Hopper GPU");
    assert!(!kernels.iter().any(|name| *name == "philox"), "no other kernel is loaded than the plan needs");
}

#[test]
fn ptx_is_for_drivers_and_gpus_that_cubins_are_not_for() {
    for (settings, cubins) in [
        (&[("STUB_REFUSE", "1")][..], true),
        (&[("STUB_GPU", "110")][..], false),
        (&[("STUB_GPU", "89"), ("STUB_REFUSE", "1")][..], true),
    ] {
        let calls = calls(settings, &[]);
        let loads = |of: &str| calls.iter().filter(|call| *call == of).count();
        assert_eq!(loads("cubin") > 0, cubins, "{settings:?}");
        assert!(loads("ptx") > 20, "{settings:?}");
        assert!(!cubins || loads("cubin") == loads("ptx"), "each is tried, then replaced");
    }
}

#[test]
fn any_call_of_the_driver_may_fail() {
    // What gives something back has no way to say that it failed, but for what comes after it.
    let may_pass =
        ["Destroy", "Free", "Unload", "Release", "GetError", "ElapsedTime", "cuEventSynchronize", "cuCtxSynchronize"];
    for function in functions() {
        let failed = generate(WHOLE.path(), &[("STUB_FAIL", &function), ("STUB_CODE", "1")], &["--dtype", "bf16"]);
        if failed.status.success() {
            assert!(may_pass.iter().any(|part| function.contains(part)), "{function} failed, and nobody noticed");
            assert!(!said(&failed).contains("panicked"), "{function}: {}", said(&failed));
            continue;
        }
        is_clear(&failed, &function);
        let text = said(&failed);
        assert!(text.contains("words of the driver on 1 (CUDA_ERROR_1)"), "{function}: {text}");
    }
}

#[test]
fn what_to_do_depends_on_what_failed() {
    for (function, code, what) in [
        ("cuInit", "34", "LD_LIBRARY_PATH"),
        ("cuInit", "100", "nvidia-smi"),
        ("cuInit", "802", "nvidia-fabricmanager"),
        ("cuInit", "803", "restart the machine"),
        ("cuInit", "804", "forward compatibility"),
        ("cuDevicePrimaryCtxRetain", "2", "other programs take its memory"),
        ("cuDevicePrimaryCtxRetain", "46", "for itself alone"),
        ("cuDevicePrimaryCtxRetain", "101", "CUDA_VISIBLE_DEVICES"),
        ("cuLaunchKernelEx", "700", "--check-nodes"),
        ("cuCtxSynchronize", "214", "nvidia-smi --gpu-reset"),
        ("cuGraphLaunch", "719", "--check-nodes"),
        ("cuGraphLaunch", "805", "nvidia-cuda-mps-control"),
        ("cuModuleLoadData", "221", "525 (CUDA 12.0)"),
        ("cuModuleLoadData", "222", "525 (CUDA 12.0)"),
        ("cuModuleGetFunction", "500", "update the NVIDIA driver"),
    ] {
        let failed = generate(WHOLE.path(), &[("STUB_FAIL", function), ("STUB_CODE", code)], &[]);
        if function == "cuCtxSynchronize" && failed.status.success() {
            continue; // only what gives memory back waits for all
        }
        is_clear(&failed, function);
        assert!(said(&failed).contains(what), "{function}, {code}: {}", said(&failed));
    }
    let full = generate(WHOLE.path(), &[("STUB_FAIL", "cuMemAlloc_v2"), ("STUB_CODE", "2")], &[]);
    assert_eq!(full.status.code(), Some(4), "{}", said(&full));
    // Not even its words can be had.
    let mute =
        fs::read_to_string(STUB).unwrap().replace(r#"if (called("cuGetError"#, r#"return 1; if (called("cuGetError"#);
    let mute = driver(&mute, &[]);
    let failed = generate(mute.path(), &[("STUB_FAIL", "cuInit"), ("STUB_CODE", "999")], &[]);
    is_clear(&failed, "no words");
    assert!(said(&failed).contains("error 999 of the driver"), "{}", said(&failed));
}

#[test]
fn drivers_that_are_too_old_are_told() {
    let source = fs::read_to_string(STUB).unwrap();
    for lacks in ["cuInit", "cuGetErrorString", "cuLaunchKernelEx", "cuTensorMapEncodeTiled"] {
        let old = driver(&source, &[format!("-D{lacks}=another")]);
        let failed = generate(old.path(), &[], &[]);
        is_clear(&failed, lacks);
        let text = said(&failed);
        assert!(text.contains(&format!("lacks the function {lacks}")) && text.contains("driver 525"), "{text}");
    }
    let empty = driver("int nothing;", &[]);
    let failed = generate(empty.path(), &[], &[]);
    is_clear(&failed, "an empty library");
    let others = functions().len() - 1;
    assert!(said(&failed).contains(&format!("and {others} others")), "{}", said(&failed));
    for (setting, value, what) in [
        ("STUB_VERSION", "11080", "the driver is of CUDA 11.8"),
        ("STUB_GPU", "75", "compute capability 7.5"),
        ("STUB_COUNT", "0", "finds no device"),
    ] {
        let failed = generate(WHOLE.path(), &[(setting, value)], &[]);
        is_clear(&failed, setting);
        assert!(said(&failed).contains(what), "{}", said(&failed));
    }
    let none: PathBuf = tempfile::tempdir().unwrap().path().to_owned();
    let failed = generate(&none, &[], &[]);
    is_clear(&failed, "no library");
}
