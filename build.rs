//! Checks the compiled CUDA kernels that the crate embeds, and builds them for the emulated GPU where the feature `cuda-emu` asks for it.

use std::{env, fs};

#[path = "build/archive.rs"]
mod archive;
#[path = "build/code.rs"]
mod code;
#[cfg(feature = "cuda-emu")]
#[path = "build/emulator.rs"]
mod emulator;
#[path = "build/fingerprint.rs"]
mod fingerprint;

fn main() {
    println!("cargo::rerun-if-env-changed=CASCADE_NVCC");
    for path in ["build.rs", "build", "kernels/host", "kernels/ptx.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    // Files of `kernels` one by one: its tables of registers and rates are no reason to build anything again.
    let folder = fs::read_dir("kernels").expect("the kernels are there");
    let names =
        folder.map(|entry| entry.expect("it can be listed").file_name().into_string().expect("names are UTF-8"));
    let mut sources: Vec<String> =
        names.filter(|name| [".cu", ".cuh", ".lzma"].iter().any(|end| name.ends_with(end))).collect();
    sources.sort();
    for name in &sources {
        println!("cargo::rerun-if-changed=kernels/{name}");
    }
    sources.retain(|name| !name.ends_with(".lzma"));
    let stems: Vec<String> = sources.iter().filter_map(|name| name.strip_suffix(".cu")).map(str::to_owned).collect();

    match env::var("CASCADE_NVCC") {
        Ok(nvcc) => code::compile(&nvcc, &stems),
        Err(_) => code::copy(&stems),
    }
    #[cfg(feature = "cuda-emu")]
    emulator::compile(&stems);
}
