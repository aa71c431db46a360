//! The compiled kernels that the crate embeds: archives of PTX and of cubins as `tools/ptx` made them, or PTX by the compiler that
//! `CASCADE_NVCC` names. Either way they lie in `OUT_DIR`, where `src/backend/cuda/code.rs` includes them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{env, fs, io::Write};

use crate::archive;
use crate::fingerprint::{Sources, fnv};

/// Every archive: `kernels/<name>.lzma`. As `MADE` of `tools/ptx/cubins.py`.
const ARCHIVES: [&str; 6] = ["ptx", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"];

/// What is made of a kernel: PTX, by name, and the architecture that it is compiled for. As `TARGETS` of `tools/ptx`.
fn targets(stem: &str) -> Vec<(String, &'static str)> {
    if stem.ends_with(".sm90a") {
        return vec![(format!("{stem}.ptx"), "90a")];
    }
    vec![(format!("{stem}.ptx"), "80"), (format!("{stem}.sm90.ptx"), "90")]
}

fn out() -> PathBuf {
    env::var("OUT_DIR").expect("cargo sets it").into()
}

/// Copies what `tools/ptx` made, when all of it agrees with `kernels/ptx.lock`. Where it is not of these sources, the build
/// stops; but not if the kernels are built for the emulator as well: who works on them there needs no nvcc, and tests/ptx.rs
/// has the last word.
pub fn copy(stems: &[String]) {
    let lock = fs::read_to_string("kernels/ptx.lock").unwrap_or_else(|e| panic!("kernels/ptx.lock: {e}"));
    // By the name of each file, the fingerprints of what it was made of and of what it holds.
    let locked: BTreeMap<&str, (&str, &str)> = lock
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [name, of, own] => (name, (of, own)),
            _ => panic!("kernels/ptx.lock: `{line}` is not a name and two fingerprints; run `python3 tools/ptx`"),
        })
        .collect();
    let mut held = 0;
    for name in ARCHIVES {
        let path = format!("kernels/{name}.lzma");
        let packed = fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let damaged = |what: &str| format!("{path}: {what}; run `python3 tools/ptx`, or check kernels out again");
        let files = archive::unpack(&packed).unwrap_or_else(|e| panic!("{}", damaged(&e)));
        for (file, data) in &files {
            let full = if name == "ptx" { file.clone() } else { format!("{name}/{file}") };
            let (expected, found) = (locked.get(full.as_str()).map(|(_, own)| *own), fnv(data.iter().copied()));
            assert!(
                expected == Some(&found),
                "{}",
                damaged(&format!("{file} has fingerprint {found}, kernels/ptx.lock says {expected:?}"))
            );
        }
        held += files.len();
        fs::write(out().join(format!("{name}.lzma")), packed).expect("OUT_DIR can be written");
    }
    assert_eq!(held, locked.len(), "kernels/ptx.lock names files that no archive holds; run `python3 tools/ptx`");

    let mut sources = Sources::new(Path::new("kernels"));
    let is_stale = |stem: &&String| {
        let sources = sources.fingerprint(stem);
        !targets(stem).iter().all(|(ptx, _)| locked.get(ptx.as_str()).is_some_and(|(of, _)| *of == sources))
    };
    let mut stale: Vec<&str> = stems.iter().filter(is_stale).map(String::as_str).collect();
    // A cubin is of the PTX that is beside it.
    let ptx_of = |cubin: &str| {
        let (folder, stem) = cubin.strip_suffix(".cubin")?.split_once('/')?;
        let older = stem.ends_with(".sm90a") || ["sm_80", "sm_86"].contains(&folder);
        Some(if older { format!("{stem}.ptx") } else { format!("{stem}.sm90.ptx") })
    };
    let is_of_other = |(name, (of, _)): &(&&str, &(&str, &str))| {
        ptx_of(name).is_some_and(|ptx| locked.get(ptx.as_str()).is_none_or(|(_, own)| own != of))
    };
    stale.extend(locked.iter().filter(is_of_other).map(|(name, _)| *name));
    println!("cargo::rustc-env=CASCADE_STALE_PTX={}", stale.join(" "));
    if !stale.is_empty() {
        let kind = if cfg!(feature = "cuda-emu") { "warning" } else { "error" };
        let advice = "run `python3 tools/ptx`, or name a compiler: CASCADE_NVCC=nvcc";
        println!("cargo::{kind}=kernels/*.lzma are not of the sources of {}: {advice}", stale.join(", "));
    }
}

/// Puts there what `nvcc` makes of the kernels now: PTX, and no cubins.
pub fn compile(nvcc: &str, stems: &[String]) {
    println!("cargo::rustc-env=CASCADE_STALE_PTX=");
    let mut files = HashMap::new();
    for (stem, (ptx, arch)) in stems.iter().flat_map(|stem| targets(stem).into_iter().map(move |made| (stem, made))) {
        let path = out().join("nvcc.ptx");
        let mut command = std::process::Command::new(nvcc);
        command.args(["-ptx", "-std=c++17", "-O3", &format!("-arch=compute_{arch}"), "-o"]).arg(&path);
        let done = command.arg(format!("kernels/{stem}.cu")).status();
        let done = done.unwrap_or_else(|e| panic!("CASCADE_NVCC={nvcc}: {e}"));
        assert!(done.success(), "CASCADE_NVCC={nvcc} does not compile kernels/{stem}.cu");
        files.insert(ptx, fs::read(&path).expect("nvcc has written it"));
    }
    for name in ARCHIVES {
        let files = if name == "ptx" { std::mem::take(&mut files) } else { HashMap::new() };
        fs::write(out().join(format!("{name}.lzma")), packed(&files)).expect("OUT_DIR can be written");
    }
}

/// An archive of these files.
fn packed(files: &HashMap<String, Vec<u8>>) -> Vec<u8> {
    let mut data = Vec::new();
    for (name, file) in files {
        data.extend(format!("{name} {}\n", file.len()).bytes());
        data.extend(file);
    }
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, Some(data.len() as u64));
    let written = writer.and_then(|mut writer| {
        writer.write_all(&data)?;
        writer.finish()
    });
    written.expect("memory can be written")
}
