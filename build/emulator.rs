//! The CUDA kernels as C++, with the emulated GPU of `kernels/host` behind them, for the feature `cuda-emu`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::fingerprint::{Sources, fnv};

/// The kernel that a line declares: `KERNEL(name)`, `KERNEL(name, blocks)`, the same with `KERNEL_CLUSTER` or
/// `KERNEL_TILED(name)`.
fn kernel_name(line: &str) -> Option<&str> {
    let rest = ["KERNEL(", "KERNEL_CLUSTER(", "KERNEL_TILED("].iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split([',', ')']).next()
}

/// Compiles the kernels of these names, the emulator and a table of the kernels by name. Objects of an earlier build serve
/// again if what they were made of is the same, comments and layout aside.
pub fn compile(stems: &[String]) {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let write = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).expect("OUT_DIR can be written");
        path
    };

    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).include("kernels").flag("-Wno-unknown-pragmas");
    // Sums are rounded as written, and shared memory is seen as more than one type.
    build.flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    let compiler = build.get_compiler();
    let words = std::iter::once(compiler.path().as_os_str()).chain(compiler.args().iter().map(AsRef::as_ref));
    let command: String = words.map(|word| format!("{}\n", word.to_str().expect("flags are text"))).collect();
    // For tools/host-kernels, which compiles single files again.
    write("compiler", command.clone());

    // Kernels give the same names to different things: each file gets a namespace of its own, or the
    // linker would take one of two functions for both.
    let mut sources = Sources::new(Path::new("kernels"));
    let wrap = |(i, stem): (usize, &String)| {
        let text = format!("#include \"host/device.h\"\nnamespace file_{i} {{\n#include \"{stem}.cu\"\n}}\n");
        let made_of = format!("{text}{}", sources.fingerprint(stem));
        (write(&format!("{stem}.cu.cpp"), text), made_of)
    };
    let mut parts: Vec<(PathBuf, String)> = stems.iter().enumerate().map(wrap).collect();
    let table = table(stems);
    parts.push((write("kernels.cpp", table.clone()), table));
    let headers = texts("kernels", ".cuh");
    for name in ["device", "hopper", "wgmma"] {
        parts.push((format!("kernels/host/{name}.cpp").into(), headers.clone()));
    }

    let shared = format!("{command}{}", texts("kernels/host", ""));
    let known = fs::read_to_string(out.join("objects")).unwrap_or_default();
    let known: HashMap<&str, PathBuf> =
        known.lines().filter_map(|line| line.split_once(' ')).map(|(key, object)| (key, object.into())).collect();
    let mut objects = Vec::new();
    let mut stale = Vec::new();
    for (source, made_of) in parts {
        let key = fnv(format!("{}\n{shared}{made_of}", source.display()).bytes());
        match known.get(key.as_str()).filter(|object| object.exists()) {
            Some(object) => objects.push((key, object.clone())),
            None => stale.push((key, source)),
        }
    }
    // Should the compiler fail, what it replaced is not known.
    let _ = fs::remove_file(out.join("objects"));
    if !stale.is_empty() {
        let made = build.files(stale.iter().map(|(_, source)| source)).compile_intermediates();
        objects.extend(stale.into_iter().map(|(key, _)| key).zip(made));
    }
    cc::Build::new().cpp(true).objects(objects.iter().map(|(_, object)| object)).compile("cascade_host");
    write("objects", objects.iter().map(|(key, object)| format!("{key} {}\n", object.display())).collect());
}

/// C++ that lists the entry points of all kernels by name.
fn table(stems: &[String]) -> String {
    let mut names = Vec::new();
    for stem in stems {
        let text = fs::read_to_string(format!("kernels/{stem}.cu")).expect("a kernel can be read");
        names.extend(text.lines().filter_map(kernel_name).map(str::to_owned));
    }
    let declarations: String =
        names.iter().map(|n| format!("extern \"C\" void kernel_{n}(Args, const void*);\n")).collect();
    let entries: String = names.iter().map(|n| format!("    {{\"{n}\", kernel_{n}}},\n")).collect();
    format!(
        "#include \"common.cuh\"\n{declarations}struct Entry {{ const char* name; void (*run)(Args, const void*); }};\n\
         extern const Entry cascade_kernels[] = {{\n{entries}    {{nullptr, nullptr}},\n}};\n"
    )
}

/// The files of a folder whose names end so, one after the other.
fn texts(folder: &str, end: &str) -> String {
    let files = fs::read_dir(folder).expect("kernels are there").map(|file| file.expect("it can be listed").path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.is_file() && path.to_string_lossy().ends_with(end)).collect();
    files.sort();
    files.iter().map(|path| fs::read_to_string(path).expect("sources are UTF-8")).collect()
}
