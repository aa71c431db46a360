//! Unpacks the PTX of the CUDA kernels, and builds them for the emulated GPU where the feature `cuda-emu` asks for it.

use std::{env, fs};

#[cfg(feature = "cuda-emu")]
#[path = "build/emulator.rs"]
mod emulator;
#[path = "build/fingerprint.rs"]
mod fingerprint;
#[path = "build/ptx.rs"]
mod ptx;

fn main() {
    println!("cargo::rerun-if-env-changed=CASCADE_NVCC");
    for path in ["build.rs", "build", "kernels/host", "kernels/ptx.lock", "kernels/ptx.lzma"] {
        println!("cargo::rerun-if-changed={path}");
    }
    // Files of `kernels` one by one: its tables of registers and rates are no reason to build anything again.
    let folder = fs::read_dir("kernels").expect("the kernels are there");
    let names =
        folder.map(|entry| entry.expect("it can be listed").file_name().into_string().expect("names are UTF-8"));
    let mut sources: Vec<String> = names.filter(|name| name.ends_with(".cu") || name.ends_with(".cuh")).collect();
    sources.sort();
    for name in &sources {
        println!("cargo::rerun-if-changed=kernels/{name}");
    }
    let stems: Vec<String> = sources.iter().filter_map(|name| name.strip_suffix(".cu")).map(str::to_owned).collect();

    match env::var("CASCADE_NVCC") {
        Ok(nvcc) => ptx::compile(&nvcc, &stems),
        Err(_) => ptx::unpack(&stems),
    }
    #[cfg(feature = "cuda-emu")]
    emulator::compile(&stems);
}
