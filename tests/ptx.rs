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
    // For every GPU, and for those on which a launch may begin before the one before it is over; Hopper's kernels are.
    let newer = sources.iter().filter(|stem| !stem.ends_with(".sm90a")).map(|stem| format!("{stem}.sm90"));
    let mut all: Vec<_> = sources.iter().cloned().chain(newer).collect();
    all.sort();
    assert_eq!(stems(&kernels().join("ptx"), ".ptx"), all, "run tools/ptx");
    // A build without the emulated GPU stops where it finds what this finds.
    assert_eq!(env!("CASCADE_STALE_PTX"), "", "sources have changed: run tools/ptx");
    for stem in all {
        let ptx = fs::read_to_string(kernels().join("ptx").join(format!("{stem}.ptx"))).unwrap();
        // Newer ones would ask for a newer driver.
        let version = match stem.rsplit_once('.') {
            Some((_, "sm90a")) => ".version 8.0",
            Some((_, "sm90")) => ".version 7.8",
            _ => ".version 7.0",
        };
        assert!(ptx.lines().any(|line| line == version), "kernels/ptx/{stem}.ptx states {version}");
    }
}

#[test]
fn every_row_names_entries_of_its_ptx() {
    use cascade_rt::registry::{Lang, Launch, kernels};
    for kernel in kernels(Lang::Cuda) {
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        for pass in cuda.passes {
            for ptx in [cuda.ptx, cuda.ptx_sm90] {
                assert!(ptx.contains(&format!(".entry {}(", pass.entry)), "{}: {}", kernel.name, pass.entry);
            }
        }
    }
}

/// Instructions of each entry, by its name; a label is one, with its colon.
fn entries(ptx: &str) -> Vec<(&str, Vec<&str>)> {
    ptx.split(".entry ")
        .skip(1)
        .map(|text| {
            let (name, rest) = text.split_once('(').expect("parameters follow");
            let body = rest.split_once("\n{").and_then(|(_, body)| body.rsplit_once("\n}")).expect("it has a body").0;
            let lines = body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['.', '/']));
            (name, lines.collect())
        })
        .collect()
}

/// What is wrong with an entry whose launch may begin before the one before it is over, if anything is.
fn hurries(instructions: &[&str]) -> Option<String> {
    const WAIT: &str = "griddepcontrol.wait;";
    const NEXT: &str = "griddepcontrol.launch_dependents;";
    let Some(wait) = instructions.iter().position(|i| *i == WAIT) else { return Some("it does not wait".into()) };
    // Computing and reading parameters is all that may come before: no branch round the wait, no other memory.
    let harmless = |i: &&&str| ["mov.", "ld.param.", "add.", "cvta."].iter().any(|word| i.starts_with(word));
    if let Some(early) = instructions[..wait].iter().find(|i| !harmless(i)) {
        return Some(format!("`{early}` comes before the wait"));
    }
    // A load that may be served from where nothing is made to agree: its memory would have to be the same from the
    // beginning of the launch, not only from the wait.
    if let Some(stale) = instructions.iter().find(|i| i.starts_with("ld.global.nc") || i.contains(" ld.global.nc")) {
        return Some(format!("`{stale}` may find what was there before the wait"));
    }
    // Of a block, the first thread to let the next launch in speaks for all: it must meet the others before, and there is
    // no other way out.
    let is_end = |end: &[&str]| end[0].starts_with("bar.sync") && end[1..] == [NEXT, "ret;"];
    let ends = |i: &&&str| [NEXT, "ret;", "exit;"].iter().any(|word| i.ends_with(word));
    let last = instructions.windows(3).any(is_end) && instructions.iter().filter(ends).count() == 2;
    (!last).then(|| "the next launch is not let in when all threads of a block are done".into())
}

#[test]
fn what_begins_early_waits_before_all_else() {
    use cascade_rt::registry::{Lang, Launch, kernels};
    let mut seen = 0;
    for kernel in kernels(Lang::Cuda) {
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        for (name, instructions) in entries(cuda.ptx_sm90) {
            assert_eq!(hurries(&instructions), None, "{name}");
            seen += 1;
        }
        let of_hopper = kernel.name.ends_with(".sm90a");
        assert_eq!(cuda.ptx == cuda.ptx_sm90, of_hopper, "{}", kernel.name);
        assert_eq!(cuda.ptx.contains("griddepcontrol"), of_hopper, "{}: older machines do not know it", kernel.name);
    }
    assert!(seen > 50, "entries are found");
}

#[test]
fn what_does_not_wait_is_found() {
    let wait = "griddepcontrol.wait;";
    let good = ["ld.param.u64 %rd1, [a];", wait, "bar.sync \t0;", "griddepcontrol.launch_dependents;", "ret;"];
    assert_eq!(hurries(&good), None);
    for early in ["ld.global.f32 %f1, [%rd1];", "st.global.f32 [%rd1], %f1;", "@%p1 bra \t$L__BB0_2;", "ret;"] {
        let found = hurries(&[&[early][..], &good].concat()).expect("something comes before the wait");
        assert!(found.contains(early), "{found}");
    }
    let without = |gone: &str| good.iter().copied().filter(|i| *i != gone).collect::<Vec<_>>();
    assert!(hurries(&without(wait)).is_some_and(|found| found.contains("does not wait")));
    let later = [&good[..4], &["st.global.f32 [%rd1], %f1;", "ret;"]].concat();
    let elsewhere = [&good[..2], &["@%p1 ret;"], &good[2..]].concat();
    for bad in [without(good[2]), without(good[3]), later, elsewhere] {
        assert!(hurries(&bad).is_some_and(|found| found.contains("not let in")), "{bad:?}");
    }
    let stale = [&good[..2], &["ld.global.nc.f32 %f1, [%rd1];"], &good[2..]].concat();
    assert!(hurries(&stale).is_some_and(|found| found.contains("may find")));
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
