//! Sees to the PTX of the CUDA kernels, and builds them for the host where the feature `cuda-emu` asks for it.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=CASCADE_NVCC");
    let kernels = kernels();
    let ptx = match env::var("CASCADE_NVCC") {
        Ok(nvcc) => compiled_by(&nvcc, &kernels),
        Err(_) => {
            check(&kernels);
            // As seen from src/registry/cuda.rs, where it is included: two checkouts may share a build folder.
            PathBuf::from("../../kernels/ptx")
        }
    };
    println!("cargo::rustc-env=CASCADE_PTX={}", ptx.display());
    #[cfg(feature = "cuda-emu")]
    kernels_for_the_host();
}

/// What each `kernels/*.cu` is called, without its end.
fn kernels() -> Vec<String> {
    let folder = fs::read_dir("kernels").expect("the kernels are there");
    let names = folder.map(|entry| entry.expect("it can be listed").file_name());
    let stem = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".cu").map(str::to_owned);
    let mut stems: Vec<String> = names.filter_map(stem).collect();
    stems.sort();
    stems
}

/// What is made of a kernel: PTX, by name, and the architecture that it is compiled for. As `TARGETS` of `tools/ptx`.
fn targets(stem: &str) -> Vec<(String, &'static str)> {
    if stem.ends_with(".sm90a") {
        return vec![(format!("{stem}.ptx"), "90a")];
    }
    vec![(format!("{stem}.ptx"), "80"), (format!("{stem}.sm90.ptx"), "90")]
}

/// Looks at what `tools/ptx` made. Where it is not of these sources, the build stops; but not if the kernels are built
/// for the host as well: who works on them there needs no nvcc, and tests/ptx.rs has the last word.
fn check(kernels: &[String]) {
    let folder = Path::new("kernels/ptx");
    let is_stale = |stem: &&String| {
        let first = format!("// Made by tools/ptx from kernels/{stem}.cu, sources {}.\n", fingerprint(stem));
        let is_of_it = |ptx| fs::read_to_string(folder.join(ptx)).is_ok_and(|text| text.starts_with(&first));
        !targets(stem).into_iter().all(|(ptx, _)| is_of_it(ptx))
    };
    let stale: Vec<&str> = kernels.iter().filter(is_stale).map(String::as_str).collect();
    println!("cargo::rustc-env=CASCADE_STALE_PTX={}", stale.join(" "));
    if !stale.is_empty() {
        let kind = if cfg!(feature = "cuda-emu") { "warning" } else { "error" };
        let advice = "run tools/ptx, or name a compiler: CASCADE_NVCC=nvcc";
        println!("cargo::{kind}=kernels/ptx is not of the sources of {}: {advice}", stale.join(", "));
    }
}

/// FNV-1a of a kernel's sources, as `tools/ptx` computes it.
fn fingerprint(stem: &str) -> String {
    /// Adds a file and all that it includes, each once, in the order of the first mention.
    fn collect(file: PathBuf, seen: &mut Vec<(PathBuf, String)>) {
        if seen.iter().any(|(known, _)| *known == file) {
            return;
        }
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        seen.push((file, text.clone()));
        for line in text.lines() {
            let name = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            if let Some(name) = name.filter(|name| !name.starts_with("host/")) {
                collect(Path::new("kernels").join(name), seen);
            }
        }
    }
    let mut files = Vec::new();
    collect(Path::new("kernels").join(format!("{stem}.cu")), &mut files);
    let bytes = files.iter().flat_map(|(_, text)| text.bytes());
    let add = |value: u64, byte| (value ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, add))
}

/// The folder of what `nvcc` makes of the kernels now.
fn compiled_by(nvcc: &str, kernels: &[String]) -> PathBuf {
    println!("cargo::rustc-env=CASCADE_STALE_PTX=");
    let folder = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("ptx");
    fs::create_dir_all(&folder).expect("it can be made");
    for (stem, (ptx, arch)) in kernels.iter().flat_map(|stem| targets(stem).into_iter().map(move |made| (stem, made))) {
        let mut command = std::process::Command::new(nvcc);
        command.args(["-ptx", "-std=c++17", "-O3", &format!("-arch=compute_{arch}"), "-o"]).arg(folder.join(ptx));
        let done = command.arg(format!("kernels/{stem}.cu")).status();
        let done = done.unwrap_or_else(|e| panic!("CASCADE_NVCC={nvcc}: {e}"));
        assert!(done.success(), "CASCADE_NVCC={nvcc} does not compile kernels/{stem}.cu");
    }
    folder
}

/// The kernel that a line declares: `KERNEL(name)`, `KERNEL(name, blocks)`, the same with `KERNEL_CLUSTER` or
/// `KERNEL_TILED(name)`.
#[cfg(feature = "cuda-emu")]
fn kernel_name(line: &str) -> Option<&str> {
    let rest = ["KERNEL(", "KERNEL_CLUSTER(", "KERNEL_TILED("].iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split([',', ')']).next()
}

/// Every `kernels/*.cu` as C++, the player of a GPU behind them, and a table of the kernels by name.
#[cfg(feature = "cuda-emu")]
fn kernels_for_the_host() {
    let sources: Vec<PathBuf> = kernels().iter().map(|stem| Path::new("kernels").join(format!("{stem}.cu"))).collect();

    let mut names = Vec::new();
    for path in &sources {
        let text = fs::read_to_string(path).expect("a kernel can be read");
        let declared = text.lines().filter_map(|line| kernel_name(line));
        names.extend(declared.map(str::to_owned));
    }
    let declarations: String =
        names.iter().map(|n| format!("extern \"C\" void kernel_{n}(Args, const void*);\n")).collect();
    let entries: String = names.iter().map(|n| format!("    {{\"{n}\", kernel_{n}}},\n")).collect();
    let table = format!(
        "#include \"common.cuh\"\n{declarations}struct Entry {{ const char* name; void (*run)(Args, const void*); }};\n\
         extern const Entry cascade_kernels[] = {{\n{entries}    {{nullptr, nullptr}},\n}};\n"
    );
    let out = env::var("OUT_DIR").expect("cargo sets it");
    let table_at = Path::new(&out).join("kernels.cpp");
    fs::write(&table_at, table).expect("the table can be written");

    // Kernels give the same names to different things: each file gets a namespace of its own, or the
    // linker would take one of two functions for both.
    let wrap = |(i, path): (usize, &PathBuf)| {
        let name = path.file_name().and_then(|name| name.to_str()).expect("kernels have names");
        let wrapped = Path::new(&out).join(format!("{name}.cpp"));
        let text = format!("#include \"host/device.h\"\nnamespace file_{i} {{\n#include \"{name}\"\n}}\n");
        fs::write(&wrapped, text).expect("it can be written");
        wrapped
    };
    let wrapped: Vec<PathBuf> = sources.iter().enumerate().map(wrap).collect();

    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).include("kernels").flag("-Wno-unknown-pragmas");
    // Sums are rounded as written, and shared memory is seen as more than one type.
    build.flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    build
        .files(["device", "hopper", "wgmma"].map(|name| format!("kernels/host/{name}.cpp")))
        .file(&table_at)
        .files(&wrapped);
    build.compile("cascade_host");

    // How, for who compiles a single file again: tools/host-kernels.
    let compiler = build.get_compiler();
    let words = std::iter::once(compiler.path().as_os_str()).chain(compiler.args().iter().map(AsRef::as_ref));
    let lines: String = words.map(|word| format!("{}\n", word.to_str().expect("flags are text"))).collect();
    fs::write(Path::new(&out).join("compiler"), lines).expect("it can be written");
}
