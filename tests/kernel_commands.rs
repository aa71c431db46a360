//! `kernels --check`, `--bench`, `--shaders` and `--spirv`, with shaders that are right, wrong, slow and broken.
#![cfg(all(feature = "cli", feature = "demo"))]

mod common;

use std::path::Path;
use std::process::Output;

use cascade_rt::backend::wgpu;
use serde_json::Value;

const SCALE: &str = include_str!("../shaders/scale.wgsl");
const COMMON: &str = include_str!("../shaders/common.wgsl");

/// Runs `kernels` with these arguments on the first adapter.
fn kernels(args: &[&str]) -> Output {
    common::program().arg("kernels").args(args).args(["--device", "wgpu", "-m", "demo"]).output().unwrap()
}

/// Whether an adapter is here; a loud skip otherwise.
fn adapter() -> bool {
    let is_here = !wgpu::adapters().is_empty();
    assert!(is_here || !common::required("wgpu"), "CASCADE_REQUIRE demands wgpu, no adapter answers");
    if !is_here {
        eprintln!("SKIPPED: no adapter of wgpu answers");
    }
    is_here
}

/// A folder with one shader, in which `part` is replaced.
fn folder(name: &str, text: &str, part: &str, instead: &str) -> tempfile::TempDir {
    assert!(text.contains(part), "{name} has no `{part}`");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), text.replace(part, instead)).unwrap();
    folder
}

fn path(folder: &tempfile::TempDir) -> &str {
    folder.path().to_str().unwrap()
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn kernels_of_the_cpu_agree_with_their_definitions() {
    let output = common::program().args(["kernels", "--check", "--device", "cpu", "--op", "gather"]).output().unwrap();
    let (out, error) = text(&output);
    assert!(output.status.success() && out.contains("agree with their definitions"), "{out}{error}");
    let output = common::program().args(["kernels", "--check", "--device", "cpu", "--op", "gathre"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "no op is called so");
}

#[test]
fn a_wrong_shader_is_named_with_case_and_element() {
    if !adapter() {
        return;
    }
    let output = kernels(&["--check", "--op", "scale"]);
    assert!(output.status.success(), "{:?}", text(&output));
    let wrong = folder("scale.wgsl", SCALE, "p.factor * x[i]", "p.factor * x[i] + f32(i == 3u)");
    let output = kernels(&["--check", "--op", "scale", "--shader-dir", path(&wrong)]);
    let (out, error) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{out}{error}");
    assert!(out.contains("WRONG") && out.contains("  scale: case ") && out.contains("element [0, "), "{out}");
    assert!(error.contains("do not compute what their ops' definitions say"), "{error}");
    // All of it, for programs.
    let output = kernels(&["--check", "--json", "--op", "scale", "--shader-dir", path(&wrong)]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = json["kernels"].as_array().unwrap().iter().find(|row| row["kernel"] == "scale").unwrap();
    assert!(!row["wrong"].as_array().unwrap().is_empty() && row["cases"].as_u64() > Some(1), "{row}");
    // One that does not compile is as wrong.
    let broken = folder("scale.wgsl", SCALE, "fn main(", "fn other(");
    let output = kernels(&["--check", "--op", "scale", "--shader-dir", path(&broken)]);
    let (out, _) = text(&output);
    assert!(output.status.code() == Some(1) && out.contains("there is no entry point `main`"), "{out}");
}

#[test]
fn a_wrong_shader_is_never_the_chosen_one() {
    if !adapter() {
        return;
    }
    let activation = include_str!("../shaders/activation.wgsl");
    let wrong = folder("activation.wgsl", activation, "apply(p.function, ", "1.0 + apply(p.function, ");
    let output = kernels(&["--bench", "--op", "activation", "--shader-dir", path(&wrong)]);
    let (out, error) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{out}{error}");
    assert!(out.contains("WRONG") && !out.contains(" chosen\n"), "{out}");
    assert!(error.contains("activation computes wrong results"), "{error}");
}

#[test]
fn two_folders_of_shaders_are_compared() {
    if !adapter() {
        return;
    }
    // A text that every shader has, which changes all of them.
    let same = folder("common.wgsl", COMMON, "erf", "erf");
    let output = kernels(&["--bench", "--op", "activation", "--shaders", path(&same), "--json"]);
    let (out, error) = text(&output);
    assert!(output.status.success(), "{out}{error}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["sides"][0], "built-in");
    let shapes = json["shapes"].as_array().unwrap();
    assert!(!shapes.is_empty());
    for shape in shapes {
        let [a, b] = [0, 1].map(|side| &shape["seconds"][side]);
        for spread in [a, b, &shape["ratio"]] {
            let of = |name: &str| spread[name].as_f64().unwrap();
            assert!(0.0 < of("lower") && of("lower") <= of("median") && of("median") <= of("upper"), "{shape}");
        }
    }
    // Work that is done a thousand times is slower.
    let activation = include_str!("../shaders/activation.wgsl");
    let slow =
        "var y = 0.0;\n for (var k = 0u; k < 1000u; k++) { y = apply(p.function, x[i] + y * 1e-30); }\n out[i] = y;";
    let line = activation.lines().find(|line| line.contains("apply(p.function, x[i])")).unwrap();
    let slow = folder("activation.wgsl", activation, line, &line.replace("out[i] = apply(p.function, x[i]);", slow));
    let output = kernels(&["--bench", "--op", "activation", "--shaders", path(&same), "--shaders", path(&slow)]);
    let (out, error) = text(&output);
    assert!(output.status.success(), "{out}{error}");
    assert!(out.contains(": slower") && !out.contains(": faster"), "{out}");
    // A side that is wrong is not compared.
    let wrong = folder("activation.wgsl", activation, "apply(p.function, ", "1.0 + apply(p.function, ");
    let output = kernels(&["--bench", "--op", "activation", "--shaders", path(&same), "--shaders", path(&wrong)]);
    let (out, error) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{out}{error}");
    assert!(error.contains("B is WRONG") && !out.contains("of A's time"), "{out}{error}");
    // Three cannot be compared, nor can a folder without shaders.
    let three = ["--shaders", path(&same), "--shaders", path(&slow), "--shaders", path(&wrong)];
    let output = kernels(&[&["--bench"][..], &three].concat());
    assert_eq!(output.status.code(), Some(2), "{:?}", text(&output));
    let empty = tempfile::tempdir().unwrap();
    let output = kernels(&["--bench", "--shaders", path(&empty)]);
    assert_eq!(output.status.code(), Some(2), "{:?}", text(&output));
}

#[test]
fn spirv_of_every_pipeline_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = common::program().args(["kernels", "--spirv", path(&folder)]).output().unwrap();
    assert!(output.status.success(), "{:?}", text(&output));
    let is_spirv = |path: &Path| std::fs::read(path).unwrap().starts_with(&0x0723_0203u32.to_le_bytes());
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 100 && files.iter().all(|file| is_spirv(file)));
    for name in ["linear,main,weight=bf16,bias=bf16.spv", "scale,main,x=in_place.spv", "grn_scale,norms"] {
        let names = |file: &&std::path::PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with(name);
        assert!(files.iter().any(|file| names(&file)), "{name} of {files:?}");
    }
}
