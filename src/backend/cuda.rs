//! The CUDA backend: NVIDIA GPUs of compute capability 8.0 or above, through the driver alone.
//!
//! Activations lie in one allocation, weights in a few, as they are in the file. Every kernel
//! takes one argument of the same form, filled in before its segment first runs; the launches of a segment are
//! recorded as a graph then. Kernels are cubins, or PTX that the driver compiles for its GPU, and are loaded while weights are uploaded.
//!
//! Everything but the calls of the driver itself runs on the host too, with the feature `cuda-emu`: the same
//! kernels, compiled as C++, behind the same `Driver`.

mod args;
pub mod code;
mod context;
mod driver;
#[cfg(feature = "cuda-emu")]
mod emulated;
#[cfg(all(test, feature = "cuda-emu"))]
mod emulated_tests;
#[cfg(all(test, feature = "cuda-emu"))]
mod failing;
mod fault;
#[cfg(all(test, feature = "cuda-emu"))]
mod loading_tests;
mod modules;
mod program;
mod real;
mod ring;
mod squares;
mod tensor_map;

use std::sync::{Arc, OnceLock};

use super::weights::{Store, Weights};
use super::{Backend, Device, Program};
use crate::error::Result;
use crate::plan::Plan;
use crate::registry::{Caps, Kernel, Lang};
use context::Context;
use driver::Driver;
use modules::Modules;
use real::Real;

/// The devices, by number, each or why it does not serve; or why there are none. Asked for once.
pub fn devices() -> std::result::Result<Vec<std::result::Result<Device, String>>, String> {
    type All = std::result::Result<Vec<std::result::Result<Device, String>>, String>;
    static ALL: OnceLock<All> = OnceLock::new();
    let open = |i| Real::open(i).map(|real| real.device().clone()).map_err(|e| e.to_string());
    ALL.get_or_init(|| Ok((0..real::count()?).map(open).collect())).clone()
}

/// Those that serve, with their numbers.
pub fn usable() -> Vec<(usize, Device)> {
    let numbered = devices().unwrap_or_default().into_iter().enumerate();
    numbered.filter_map(|(i, device)| Some((i, device.ok()?))).collect()
}

/// Opens device `index` with everything it has; GEMM inputs may be rounded to bf16 if `round_bf16` is set.
///
/// # Errors
/// If there is no driver, no such device, or it is too old.
pub fn open(index: usize, round_bf16: bool) -> Result<Box<dyn Backend>> {
    let mut real = Real::open(index)?;
    if round_bf16 {
        let caps = real.device().caps;
        real.device_mut().caps = caps.and(Caps::ROUND_BF16);
    }
    Ok(Box::new(Cuda::new(real)))
}

/// Opens device `index` with the capabilities given; those that it lacks are left out.
///
/// # Errors
/// As for [`open`].
pub fn with_caps(index: usize, caps: Caps) -> Result<Box<dyn Backend>> {
    let mut real = Real::open(index)?;
    let missing = caps.without(real.device().caps.and(Caps::ROUND_BF16));
    real.device_mut().caps = caps.without(missing);
    Ok(Box::new(Cuda::new(real)))
}

/// An emulated GPU, for tests; `None` without the feature `cuda-emu`. If it `checks`, a launch
/// whose result depends on the order of its threads, or that writes elsewhere, is an error.
#[cfg_attr(not(feature = "cuda-emu"), expect(unused_variables, reason = "there is none"))]
pub fn emulated(caps: Caps, checks: bool) -> Option<Box<dyn Backend>> {
    #[cfg(feature = "cuda-emu")]
    return Some(Box::new(Cuda::new(emulated::Emulated::new(caps, checks))));
    #[cfg(not(feature = "cuda-emu"))]
    return None;
}

/// An opened GPU, real or emulated.
struct Cuda<D: Driver> {
    context: Arc<Context<D>>,
    modules: Modules<D>,
    weights: Arc<Store<Context<D>>>,
}

impl<D: Driver + 'static> Cuda<D> {
    fn new(driver: D) -> Self {
        let modules = Modules::new(driver.loader());
        let context = Arc::new(Context::new(driver));
        Self { weights: Store::new(context.clone()), modules, context }
    }
}

impl<D: Driver + 'static> Backend for Cuda<D> {
    fn device(&self) -> &Device {
        self.context.device()
    }

    fn peak_bytes(&self) -> Option<u64> {
        self.context.peak.get()
    }

    fn free_bytes(&self) -> Result<u64> {
        self.weights.free_bytes()
    }

    fn compile_with(&self, plan: Arc<Plan>, kernels: &[&'static Kernel]) -> Result<Box<dyn Program>> {
        let modules = self.modules.of(kernels);
        let weights = Weights::new(&self.weights, plan.clone(), self.device().stores_bf16());
        Ok(Box::new(program::compile(self.context.clone(), weights, plan, modules)?))
    }
}

/// What such a device is, as far as it does not depend on the driver.
fn describe(name: String, kind: super::Kind, caps: Caps, sms: usize, free_bytes: u64) -> Device {
    Device { name, lang: Lang::Cuda, kind, caps, sms, free_bytes, faults: Vec::new(), copies_weights: true }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_said_what_is_missing() {
        match super::devices() {
            Ok(devices) => assert!(!devices.is_empty() && super::usable().len() <= devices.len()),
            Err(why) => {
                assert!(!why.is_empty());
                let Err(error) = super::open(0, false) else { panic!("there is no device") };
                assert_eq!(error.exit_code(), 5);
                assert!(error.to_string().starts_with("device `cuda:0`: "), "{error}");
            }
        }
    }
}
