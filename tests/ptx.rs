//! The PTX and the cubins in `kernels/*.lzma` are what `tools/ptx` makes of the sources, and the PTX does what a launch may rely on.

use std::fs;
use std::path::{Path, PathBuf};

// The build script's own.
#[path = "../build/fingerprint.rs"]
mod fingerprint;

use cascade_rt::backend::cuda::code;

/// The first compute capability that kernels are compiled for, and the first on which launches may overlap.
const OLDEST: code::Capability = (8, 0);
const HOPPER: code::Capability = (9, 0);

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
    let mut all: Vec<_> = sources.iter().cloned().chain(newer).map(|stem| format!("{stem}.ptx")).collect();
    all.sort();
    let lock = fs::read_to_string(kernels().join("ptx.lock")).unwrap();
    let lines: Vec<Vec<&str>> = lock.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(' ').collect()).collect();
    let (cubins, ptx): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line[0].ends_with(".cubin"));
    assert_eq!(ptx.iter().map(|line| line[0]).collect::<Vec<_>>(), all, "run `python3 tools/ptx`");
    // A build without the emulated GPU stops where it finds what this finds.
    assert_eq!(env!("CASCADE_STALE_PTX"), "", "sources have changed: run `python3 tools/ptx`");
    for line in &ptx {
        let (stem, gpu, version) = match line[0].trim_end_matches(".ptx") {
            stem if stem.ends_with(".sm90a") => (stem, OLDEST, ".version 8.0"),
            name => match name.strip_suffix(".sm90") {
                Some(stem) => (stem, HOPPER, ".version 7.8"),
                None => (name, OLDEST, ".version 7.0"),
            },
        };
        let ptx = code::ptx(stem, gpu).unwrap();
        assert_eq!(fingerprint::fnv(ptx.bytes()), line[2], "{}", line[0]);
        // Newer ones would ask for a newer driver.
        assert!(ptx.lines().any(|line| line == version), "{} states {version}", line[0]);
    }
    // Every kernel for every GPU that can run it, and what is part of the program is what the lock says.
    let mut of_gpu =
        [((8, 0), "sm_80"), ((8, 6), "sm_86"), (HOPPER, "sm_90"), ((10, 0), "sm_100"), ((12, 0), "sm_120")].map(
            |(gpu, folder)| {
                let of_folder = cubins.iter().filter(|line| line[0].split('/').next() == Some(folder));
                for line in of_folder.clone() {
                    let stem = line[0].split('/').nth(1).unwrap().trim_end_matches(".cubin");
                    let cubin = code::cubin(stem, gpu).unwrap();
                    assert_eq!(fingerprint::fnv(cubin.iter().copied()), line[2], "{}", line[0]);
                }
                of_folder.count()
            },
        );
    let hoppers = sources.iter().filter(|stem| stem.ends_with(".sm90a")).count();
    of_gpu[2] -= hoppers;
    assert_eq!(of_gpu, [sources.len() - hoppers; 5], "run `python3 tools/ptx`");
}

#[test]
fn comments_and_layout_change_no_fingerprint() {
    use fingerprint::normalised;
    let code = "#define TWICE(x) (2 * x)\nint f(int a) {\n    return TWICE(a + 1); // twice\n}\n";
    for same in [
        "// A comment.\n#define TWICE(x) (2 * x) // of x\nint f(int a) {\n    return TWICE(a + 1);\n}",
        "#define  TWICE(x) \\\n    (2 * x)\n\n\nint f( int a ) /* a \" quote */ {\n  return\n    TWICE( a + 1 );\n}\n",
    ] {
        assert_eq!(normalised(same), normalised(code));
    }
    for (changed, to) in
        [("1)", "2)"), ("int f", "intf"), ("TWICE(x)", "TWICE (x)"), ("a + 1", "a + + 1"), ("f(int a)", "f(int* a)")]
    {
        assert!(code.contains(changed));
        assert_ne!(normalised(&code.replacen(changed, to, 1)), normalised(code), "{changed}");
    }
    // What looks like a comment in a literal is none, and its spaces count.
    assert_eq!(normalised("asm(\"a; // b  c\");  x"), "asm(\"a; // b  c\");x");
    assert_ne!(normalised("f(\"a b\")"), normalised("f(\"ab\")"));
    assert_ne!(normalised("x = '\"'; // y"), normalised("x = '\"'; y"));
    // A directive ends with its line, which joins no other.
    assert_ne!(normalised("#define A 1\nB"), normalised("#define A 1 B"));
    assert_ne!(normalised("a + +b"), normalised("a ++b"));
}

#[test]
fn what_a_kernel_includes_counts() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let of_all = || ["a", "b"].map(|stem| fingerprint::Sources::new(folder.path()).fingerprint(stem));
    write("a.cu", "#include \"both.cuh\"\n#include \"both.cuh\"\nint a;\n");
    write("b.cu", "int b;\n");
    write("both.cuh", "#include \"host/none.h\"\nint c;\n");
    let before = of_all();
    write("both.cuh", "// Says more.\n#include \"host/none.h\"\nint   c;\n");
    assert_eq!(of_all(), before);
    write("both.cuh", "#include \"host/none.h\"\nlong c;\n");
    let after = of_all();
    assert!(after[0] != before[0] && after[1] == before[1]);
}

#[test]
fn every_row_names_entries_of_its_ptx() {
    use cascade_rt::registry::{Lang, Launch, kernels};
    for kernel in kernels(Lang::Cuda) {
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        for pass in cuda.passes {
            for ptx in [OLDEST, HOPPER].map(|gpu| code::ptx(kernel.name, gpu).unwrap()) {
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
    use cascade_rt::registry::{Lang, kernels};
    let mut seen = 0;
    for kernel in kernels(Lang::Cuda) {
        let [older, newer] = [OLDEST, HOPPER].map(|gpu| code::ptx(kernel.name, gpu).unwrap());
        for (name, instructions) in entries(newer) {
            assert_eq!(hurries(&instructions), None, "{name}");
            seen += 1;
        }
        let of_hopper = kernel.name.ends_with(".sm90a");
        assert_eq!(older == newer, of_hopper, "{}", kernel.name);
        assert_eq!(older.contains("griddepcontrol"), of_hopper, "{}: older machines do not know it", kernel.name);
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
