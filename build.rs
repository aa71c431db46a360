//! Builds the CUDA kernels for the host, where the feature `cuda-emu` asks for it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda-emu")]
    kernels_for_the_host();
}

/// Every `kernels/*.cu` as C++, the player of a GPU behind them, and a table of the kernels by name.
#[cfg(feature = "cuda-emu")]
fn kernels_for_the_host() {
    use std::fs;
    use std::path::{Path, PathBuf};

    println!("cargo:rerun-if-changed=kernels");
    let folder = fs::read_dir("kernels").expect("the kernels are there");
    let mut sources: Vec<PathBuf> = folder.map(|entry| entry.expect("it can be listed").path()).collect();
    sources.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    sources.sort();

    let mut names = Vec::new();
    for path in &sources {
        let text = fs::read_to_string(path).expect("a kernel can be read");
        let declared = text.lines().filter_map(|line| line.strip_prefix("KERNEL(")?.split([',', ')']).next());
        names.extend(declared.map(str::to_owned));
    }
    let declarations: String = names.iter().map(|n| format!("extern \"C\" void kernel_{n}(Args);\n")).collect();
    let entries: String = names.iter().map(|n| format!("    {{\"{n}\", kernel_{n}}},\n")).collect();
    let table = format!(
        "#include \"common.cuh\"\n{declarations}struct Entry {{ const char* name; void (*run)(Args); }};\n\
         extern const Entry cascade_kernels[] = {{\n{entries}    {{nullptr, nullptr}},\n}};\n"
    );
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
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
    build.file("kernels/host/device.cpp").file(&table_at).files(&wrapped);
    build.compile("cascade_host");
}
