//! The CUDA kernels as C++, with the emulated GPU of `kernels/host` behind them, for the feature `cuda-emu`.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The kernel that a line declares: `KERNEL(name)`, `KERNEL(name, blocks)`, the same with `KERNEL_CLUSTER` or
/// `KERNEL_TILED(name)`.
fn kernel_name(line: &str) -> Option<&str> {
    let rest = ["KERNEL(", "KERNEL_CLUSTER(", "KERNEL_TILED("].iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split([',', ')']).next()
}

/// Compiles the kernels of these names, the emulator and a table of the kernels by name.
pub fn compile(stems: &[String]) {
    let sources: Vec<PathBuf> = stems.iter().map(|stem| Path::new("kernels").join(format!("{stem}.cu"))).collect();

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

    // The command, for tools/host-kernels, which compiles single files again.
    let compiler = build.get_compiler();
    let words = std::iter::once(compiler.path().as_os_str()).chain(compiler.args().iter().map(AsRef::as_ref));
    let lines: String = words.map(|word| format!("{}\n", word.to_str().expect("flags are text"))).collect();
    fs::write(Path::new(&out).join("compiler"), lines).expect("it can be written");
}
