//! Which devices there are, and which is used.

use std::path::Path;
use std::str::FromStr;

use super::cpu::{self, Cpu};
use super::wgpu::{self, Wgpu};
use super::{Backend, Device, Kind, cuda};
use crate::error::{Error, Result};
use crate::registry::{Caps, Lang};

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The best there is: a GPU through CUDA, else one through wgpu, one with memory of its own before one that
    /// shares the host's, else the CPU. Software that behaves like a GPU runs on the same cores as the CPU's own
    /// kernels, and slower.
    Auto,
    /// The host's cores.
    Cpu,
    /// An adapter of wgpu, by its number.
    Wgpu(usize),
    /// A CUDA device, by its number.
    Cuda(usize),
}

impl Choice {
    /// How to write one.
    pub const FORMS: &str = "auto, cpu, wgpu[:N] or cuda[:N]";
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, index) = text.split_once(':').map_or((text, None), |(name, index)| (name, Some(index)));
        match (name, index.map(str::parse)) {
            ("auto", None) => Ok(Choice::Auto),
            ("cpu", None) => Ok(Choice::Cpu),
            ("wgpu", None) => Ok(Choice::Wgpu(0)),
            ("wgpu", Some(Ok(index))) => Ok(Choice::Wgpu(index)),
            ("cuda", None) => Ok(Choice::Cuda(0)),
            ("cuda", Some(Ok(index))) => Ok(Choice::Cuda(index)),
            _ => Err(format!("expected {}", Self::FORMS)),
        }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Cpu => f.write_str("cpu"),
            Choice::Wgpu(index) => write!(f, "wgpu:{index}"),
            Choice::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Every device that is here, the CPU last. A card that both CUDA and wgpu reach is here twice.
pub fn all() -> Vec<(Choice, Device)> {
    among(wgpu::adapters())
}

/// The same where wgpu's adapters are known. Asking for them loads graphics drivers into the process, so a program
/// that is to outlive a faulty one lets another process ask.
pub fn among(adapters: Vec<Device>) -> Vec<(Choice, Device)> {
    let gpus = cuda::usable().into_iter().map(|(i, gpu)| (Choice::Cuda(i), gpu));
    let adapters = adapters.into_iter().enumerate().map(|(i, device)| (Choice::Wgpu(i), device));
    gpus.chain(adapters).chain([(Choice::Cpu, Cpu::with_caps(cpu::detect()).device().clone())]).collect()
}

/// What [`Choice::Auto`] means among these devices.
pub fn preferred(devices: &[(Choice, Device)]) -> Choice {
    let rank = |device: &Device| match (device.kind, device.lang) {
        (Kind::Gpu | Kind::Integrated, Lang::Cuda) => 0,
        (Kind::Gpu, _) => 1,
        (Kind::Integrated, _) => 2,
        (Kind::Cpu, _) => 3,
        (Kind::Software, _) => 4,
    };
    // Of equals the first.
    devices.iter().min_by_key(|(_, device)| rank(device)).map_or(Choice::Cpu, |(choice, _)| *choice)
}

/// How kernels may round GEMM inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Not at all; int8 weights are widened.
    None,
    /// What int8 weights are multiplied by, to int8.
    Int8,
    /// All to bf16; int8 weights are widened first.
    Bf16,
    /// All to f16; int8 weights are widened first.
    F16,
}

/// What is asked of a device: all that it has but `without`, and that GEMM inputs are rounded
/// only as they may be.
pub fn wanted(rounding: Rounding, without: Caps) -> Caps {
    let allowed = match rounding {
        Rounding::None => Caps::NONE,
        Rounding::Int8 => Caps::ROUND_INT8,
        Rounding::Bf16 => Caps::ROUND_BF16,
        Rounding::F16 => Caps::ROUND_F16,
    };
    Caps::ALL.without(Caps::ROUNDING.without(allowed).and(without))
}

/// Opens the best device, see [`Choice::Auto`], with kernels that round nothing but what int8 weights are multiplied by.
///
/// # Errors
/// As [`open`].
pub fn auto() -> Result<Box<dyn Backend>> {
    Choice::Auto.open()
}

impl Choice {
    /// Opens this device with kernels that round nothing but what int8 weights are multiplied by.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(self) -> Result<Box<dyn Backend>> {
        open(self, wanted(Rounding::Int8, Caps::NONE), None)
    }
}

/// Opens a device with those of these capabilities that it has, see [`wanted`]. Shaders in `shader_dir` replace
/// those of the same name.
///
/// # Errors
/// If there is no such device, it does not open, or there is a `shader_dir` that holds no shader or that the
/// device has no use for.
pub fn open(choice: Choice, caps: Caps, shader_dir: Option<&Path>) -> Result<Box<dyn Backend>> {
    Ok(match choice {
        Choice::Auto => return open(preferred(&all()), caps, shader_dir),
        Choice::Wgpu(index) => Box::new(Wgpu::with_caps(index, caps, shader_dir)?),
        _ if shader_dir.is_some() => {
            return Err(Error::Request {
                what: "shader_dir".into(),
                expected: "a device that runs shaders, like `device wgpu`".into(),
                found: choice.to_string(),
            });
        }
        Choice::Cpu => {
            start_threads()?;
            Box::new(Cpu::with_caps(caps))
        }
        Choice::Cuda(index) => cuda::with_caps(index, caps)?,
    })
}

/// Starts the threads that kernels of the CPU run on, unless they run already. Rayon would start them when they are
/// first needed, and panic if it cannot.
///
/// # Errors
/// [`Error::Device`] if the system refuses a thread.
pub fn start_threads() -> Result<()> {
    let refused = |e: &dyn std::error::Error| Error::Device {
        wanted: "cpu".into(),
        found: format!("its threads do not start ({e})"),
        remedy:
            "raise the limits on processes and memory (`ulimit -u`, `ulimit -v`), or set RAYON_NUM_THREADS to fewer"
                .into(),
    };
    match rayon::ThreadPoolBuilder::new().build_global() {
        Err(e) if std::error::Error::source(&e).is_some() => Err(refused(&e)),
        // Without a source, the error is that they run already.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        for text in ["auto", "cpu", "wgpu:0", "wgpu:3", "cuda:1"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        assert_eq!("wgpu".parse(), Ok(Choice::Wgpu(0)));
        assert_eq!("cuda".parse(), Ok(Choice::Cuda(0)));
        for bad in ["", "gpu", "cpu:0", "wgpu:", "wgpu:-1", "wgpu:x", "auto:1"] {
            assert!(bad.parse::<Choice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_device_does_without_what_it_is_told_to() {
        let without = "avx512,avx512_bf16".parse().unwrap();
        let caps = open(Choice::Cpu, wanted(Rounding::None, without), None).unwrap().device().caps;
        assert_eq!(caps, cpu::detect().without(without));
        let caps = open(Choice::Cpu, wanted(Rounding::Bf16, Caps::NONE), None).unwrap().device().caps;
        let detected = cpu::detect();
        let rounds = detected.contains(Caps::AVX512_BF16);
        assert_eq!(caps, if rounds { detected.and(Caps::ROUND_BF16) } else { detected });
        let caps = open(Choice::Cpu, wanted(Rounding::Bf16, without), None).unwrap().device().caps;
        assert_eq!(caps, detected.without(without), "nothing rounds without the instructions for it");
        let error = "avx512,abacus".parse::<Caps>().unwrap_err();
        assert!(error.contains("sm_90a"), "{error}");
    }

    #[test]
    fn cuda_then_a_gpu_with_its_own_memory_then_any_gpu_then_the_cpu_then_software() {
        let device = |text: &str| {
            let (choice, kind) = text.split_once(' ').unwrap();
            let choice: Choice = choice.parse().unwrap();
            let lang = match choice {
                Choice::Cuda(_) => Lang::Cuda,
                Choice::Wgpu(_) => Lang::Wgsl,
                _ => Lang::Cpu,
            };
            let kind = match kind {
                "discrete" => Kind::Gpu,
                "integrated" => Kind::Integrated,
                "software" => Kind::Software,
                _ => Kind::Cpu,
            };
            let (name, caps) = (String::new(), Caps::NONE);
            (choice, Device { name, lang, kind, caps, sms: 0, free_bytes: 0, faults: vec![], copies_weights: true })
        };
        for (devices, wanted) in [
            ("wgpu:0 software,wgpu:1 discrete,cuda:1 discrete,cpu -", "cuda:1"),
            ("wgpu:0 software,wgpu:1 discrete,cpu -", "wgpu:1"),
            ("wgpu:0 integrated,wgpu:1 discrete,cpu -", "wgpu:1"),
            ("wgpu:0 integrated,cuda:0 integrated,wgpu:1 discrete,cpu -", "cuda:0"),
            ("wgpu:0 discrete,wgpu:1 discrete,cpu -", "wgpu:0"),
            ("cuda:0 discrete,cuda:1 discrete,cpu -", "cuda:0"),
            ("wgpu:0 software,wgpu:1 integrated,cpu -", "wgpu:1"),
            ("wgpu:0 software,cuda:0 software,cpu -", "cpu"),
            ("cpu -", "cpu"),
        ] {
            let all: Vec<_> = devices.split(',').map(device).collect();
            assert_eq!(preferred(&all).to_string(), wanted, "of {devices}");
        }
        assert_eq!(preferred(&[]), Choice::Cpu);
    }

    /// In WGSL it takes cooperative matrices to round, and it is to f16 that they do.
    #[test]
    fn a_device_rounds_if_it_may_and_has_kernels_that_do() {
        let tiles = Caps::COOPERATIVE.and(Caps::SUBGROUP).and(Caps::F16);
        for (lang, caps, could, does) in [
            (Lang::Wgsl, tiles, true, false),
            (Lang::Wgsl, tiles.and(Caps::ROUND_F16), true, true),
            (Lang::Wgsl, tiles.and(Caps::ROUND_BF16), true, false),
            (Lang::Wgsl, Caps::F16.and(Caps::ROUND_F16), false, false),
            (Lang::Cuda, Caps::ROUND_F16, true, false),
            (Lang::Cuda, Caps::ROUND_BF16, true, true),
            (Lang::Cpu, Caps::AVX2.and(Caps::ROUND_BF16), false, false),
        ] {
            let (name, kind, faults, copies_weights) = (String::new(), Kind::Gpu, Vec::new(), true);
            let device = Device { name, lang, kind, caps, sms: 0, free_bytes: 0, faults, copies_weights };
            assert_eq!((device.could_round(), device.rounds()), (could, does), "{lang:?} with {caps}");
            assert_eq!(device.stores_bf16(), does && lang == Lang::Cuda);
        }
    }
}
