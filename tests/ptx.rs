//! The PTX that is checked in is what `tools/ptx` makes of the sources that are.

use std::fs;
use std::path::{Path, PathBuf};

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Names of the files in a folder that end so, without the end.
fn stems(folder: &Path, end: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut stems: Vec<_> = entries.filter_map(|name| name.strip_suffix(end).map(str::to_owned)).collect();
    stems.sort();
    stems
}

#[test]
fn every_kernel_has_the_ptx_of_its_source() {
    let sources = stems(&kernels(), ".cu");
    assert!(sources.len() > 20, "kernels are found");
    assert_eq!(stems(&kernels().join("ptx"), ".ptx"), sources, "one for each; run tools/ptx");
    // A build without the emulated GPU stops where it finds what this finds.
    assert_eq!(env!("CASCADE_STALE_PTX"), "", "sources have changed: run tools/ptx");
    for stem in sources {
        let ptx = fs::read_to_string(kernels().join("ptx").join(format!("{stem}.ptx"))).unwrap();
        // Newer ones would ask for a newer driver.
        let version = if stem.ends_with(".sm90a") { ".version 8.0" } else { ".version 7.0" };
        assert!(ptx.lines().any(|line| line == version), "kernels/ptx/{stem}.ptx states {version}");
    }
}

#[test]
fn every_row_names_entries_of_its_ptx() {
    use cascade_rt::registry::{Lang, Launch, kernels};
    for kernel in kernels(Lang::Cuda) {
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        for pass in cuda.passes {
            assert!(cuda.ptx.contains(&format!(".entry {}(", pass.entry)), "{}: {}", kernel.name, pass.entry);
        }
    }
}

#[test]
fn headers_have_the_fixed_form() {
    const PARTS: [&str; 7] = ["Launch", "Shared", "Memory", "Numerics", "Needs", "Tunables", "Reference"];
    for stem in stems(&kernels(), ".cu") {
        let text = fs::read_to_string(kernels().join(format!("{stem}.cu"))).unwrap();
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let op = stem.split('.').next().unwrap();
        assert!(header[0].starts_with(&format!("// {op}: ")), "{stem}: the first line says what it computes");
        let words = header.iter().filter_map(|line| line.strip_prefix("// ")?.split("  ").next());
        let parts: Vec<&str> = words.filter(|word| PARTS.contains(word)).collect();
        assert_eq!(parts, PARTS, "{stem}");
        assert!(text.contains(&format!("src/ops/{op}.rs")), "{stem}: the definition is named");
    }
}

#[test]
fn kernels_name_no_ptx_and_every_file_has_a_row() {
    use cascade_rt::registry::{Lang, kernels as rows};
    for stem in stems(&kernels(), ".cu") {
        let text = fs::read_to_string(kernels().join(format!("{stem}.cu"))).unwrap();
        assert!(!text.contains("asm") && !text.contains("<<<"), "{stem}: PTX belongs to ptx.cuh");
        assert!(rows(Lang::Cuda).any(|row| row.name == stem), "{stem}: no row of src/registry/cuda.rs names it");
    }
}
