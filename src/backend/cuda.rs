//! The CUDA backend: NVIDIA GPUs of compute capability 8.0 or above, through the driver alone.
//!
//! Activations lie in one allocation, weights in a few, as they are in the file. Every kernel
//! takes one argument of the same form, filled in before its segment first runs; the launches of a segment are
//! recorded as a graph then. Kernels are PTX, which the driver compiles for its GPU.
//!
//! Everything but the calls of the driver itself runs on the host too, with the feature `cuda-emu`: the same
//! kernels, compiled as C++, behind the same `Driver`.

mod args;
mod context;
mod driver;
#[cfg(feature = "cuda-emu")]
mod emulated;
#[cfg(all(test, feature = "cuda-emu"))]
mod emulated_tests;
#[cfg(all(test, feature = "cuda-emu"))]
mod failing;
mod fault;
mod program;
mod real;
mod squares;
mod tensor_map;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::weights::{Store, Weights};
use super::{Backend, Device, Program};
use crate::error::Result;
use crate::plan::Plan;
use crate::registry::{Caps, Kernel, Lang, Launch};
use context::Context;
use driver::Driver;
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
    /// The kernels of each file that has been loaded, by its row's name.
    functions: Mutex<HashMap<&'static str, Arc<[D::Function]>>>,
    weights: Arc<Store<Context<D>>>,
}

impl<D: Driver> Cuda<D> {
    fn new(driver: D) -> Self {
        let context = Arc::new(Context::new(driver));
        Self { weights: Store::new(context.clone()), functions: Mutex::default(), context }
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
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut loaded_kernels = Vec::with_capacity(kernels.len());
        for kernel in kernels {
            let Launch::Cuda(cuda) = kernel.launch else {
                unreachable!("rows of CUDA are CUDA");
            };
            let loaded = match functions.get(kernel.name) {
                Some(loaded) => loaded.clone(),
                None => {
                    let entries: Vec<_> = cuda.passes.iter().map(|pass| pass.entry).collect();
                    let shared = cuda.number("SHARED").unwrap_or(0) as u32;
                    let dependent = self.device().caps.contains(Caps::DEPENDENT_LAUNCH);
                    let ptx = if dependent { cuda.ptx_sm90 } else { cuda.ptx };
                    let loaded = self.context.load(ptx, &entries, shared)?;
                    functions.entry(kernel.name).or_insert(loaded).clone()
                }
            };
            loaded_kernels.push((cuda, loaded));
        }
        let weights = Weights::new(&self.weights, plan.clone(), self.device().stores_bf16());
        Ok(Box::new(program::compile(self.context.clone(), weights, plan, loaded_kernels)?))
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
