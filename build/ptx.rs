//! The PTX that the crate embeds: unpacked from `kernels/ptx.lzma`, or made by the compiler that `CASCADE_NVCC` names. Either way
//! it lies in `OUT_DIR/ptx`, where `src/registry/cuda.rs` includes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io::Read};

use crate::fingerprint::{Sources, fnv};

/// What is made of a kernel: PTX, by name, and the architecture that it is compiled for. As `TARGETS` of `tools/ptx`.
fn targets(stem: &str) -> Vec<(String, &'static str)> {
    if stem.ends_with(".sm90a") {
        return vec![(format!("{stem}.ptx"), "90a")];
    }
    vec![(format!("{stem}.ptx"), "80"), (format!("{stem}.sm90.ptx"), "90")]
}

/// The folder of the PTX, and a file in it that says what the folder was unpacked from.
fn folder() -> (PathBuf, PathBuf) {
    let folder = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("ptx");
    fs::create_dir_all(&folder).expect("OUT_DIR can be written");
    let from = folder.join("unpacked-from");
    (folder, from)
}

/// Unpacks what `tools/ptx` made, unless that has been done. Where it is not of these sources, the build stops; but not if
/// the kernels are built for the emulator as well: who works on them there needs no nvcc, and tests/ptx.rs has the last word.
pub fn unpack(stems: &[String]) {
    let (folder, from) = folder();
    let lock = fs::read_to_string("kernels/ptx.lock").unwrap_or_else(|e| panic!("kernels/ptx.lock: {e}"));
    let archive = fs::read("kernels/ptx.lzma").unwrap_or_else(|e| panic!("kernels/ptx.lzma: {e}"));
    // Name of each PTX, with the fingerprints of its sources and of its text.
    let locked: BTreeMap<&str, (&str, &str)> = lock
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [name, sources, text] => (name, (sources, text)),
            _ => panic!("kernels/ptx.lock: `{line}` is not a name and two fingerprints; run `python3 tools/ptx`"),
        })
        .collect();

    let state = format!("{}\n{lock}", fnv(archive.iter().copied()));
    if fs::read_to_string(&from).is_ok_and(|known| known == state) {
        // Unpacked by an earlier build.
    } else {
        let _ = fs::remove_file(&from);
        for (name, text) in files(&decompressed(&archive)) {
            let expected = locked.get(name).map(|(_, text)| *text);
            let found = fnv(text.bytes());
            assert!(
                expected == Some(&found),
                "kernels/ptx.lzma: {name} has fingerprint {found}, kernels/ptx.lock says {expected:?}; \
                 run `python3 tools/ptx`, or check both files out again"
            );
            fs::write(folder.join(name), text).expect("OUT_DIR can be written");
        }
        fs::write(&from, state).expect("OUT_DIR can be written");
    }

    let mut sources = Sources::new(Path::new("kernels"));
    let is_stale = |stem: &&String| {
        let sources = sources.fingerprint(stem);
        let is_of_it = |ptx: &str| locked.get(ptx).is_some_and(|(of, _)| *of == sources) && folder.join(ptx).exists();
        !targets(stem).iter().all(|(ptx, _)| is_of_it(ptx))
    };
    let stale: Vec<&str> = stems.iter().filter(is_stale).map(String::as_str).collect();
    println!("cargo::rustc-env=CASCADE_STALE_PTX={}", stale.join(" "));
    if !stale.is_empty() {
        let kind = if cfg!(feature = "cuda-emu") { "warning" } else { "error" };
        let advice = "run `python3 tools/ptx`, or name a compiler: CASCADE_NVCC=nvcc";
        println!("cargo::{kind}=kernels/ptx.lzma is not of the sources of {}: {advice}", stale.join(", "));
    }
}

fn decompressed(archive: &[u8]) -> String {
    const LIMIT_KIB: u32 = 64 << 10; // of memory, against a damaged header
    let mut text = String::new();
    lzma_rust2::LzmaReader::new_mem_limit(archive, LIMIT_KIB, None)
        .and_then(|mut reader| reader.read_to_string(&mut text))
        .unwrap_or_else(|e| panic!("kernels/ptx.lzma cannot be unpacked: {e}; check it out again"));
    text
}

/// The files of the archive: of each, its name in a line of its own behind `// file `, then its text.
fn files(archive: &str) -> impl Iterator<Item = (&str, &str)> {
    let file = |part| str::split_once(part, '\n').expect("a line follows the name");
    archive.strip_prefix("// file ").into_iter().flat_map(|rest| rest.split("\n// file ")).map(file)
}

/// Puts there what `nvcc` makes of the kernels now.
pub fn compile(nvcc: &str, stems: &[String]) {
    println!("cargo::rustc-env=CASCADE_STALE_PTX=");
    let (folder, from) = folder();
    let _ = fs::remove_file(from);
    for (stem, (ptx, arch)) in stems.iter().flat_map(|stem| targets(stem).into_iter().map(move |made| (stem, made))) {
        let mut command = std::process::Command::new(nvcc);
        command.args(["-ptx", "-std=c++17", "-O3", &format!("-arch=compute_{arch}"), "-o"]).arg(folder.join(ptx));
        let done = command.arg(format!("kernels/{stem}.cu")).status();
        let done = done.unwrap_or_else(|e| panic!("CASCADE_NVCC={nvcc}: {e}"));
        assert!(done.success(), "CASCADE_NVCC={nvcc} does not compile kernels/{stem}.cu");
    }
}
