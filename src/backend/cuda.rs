//! The CUDA backend: NVIDIA GPUs of compute capability 8.0 or above, through the driver alone.
//!
//! Activations lie in one piece of memory, weights in a few, as they are in the file. Every kernel
//! takes one argument of the same form, filled in when a plan is compiled; the launches of a phase are
//! recorded as a graph when it first runs. Kernels are PTX, which the driver compiles for its GPU.
//!
//! All but the calls of the driver itself runs on the host too, with the feature `cuda-emu`: the same
//! kernels, compiled as C++, behind the same `Driver`.

mod args;
mod driver;
#[cfg(feature = "cuda-emu")]
mod emulated;
mod program;
mod real;
mod source;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::weights;
use super::{Backend, Device, Program};
use crate::error::Result;
use crate::plan::Plan;
use crate::registry::{Caps, Kernel, Lang, Launch};
use driver::Driver;
use real::Real;

/// The devices, by number, or why there are none. Asked for once.
pub fn devices() -> std::result::Result<Vec<Device>, String> {
    static ALL: OnceLock<std::result::Result<Vec<Device>, String>> = OnceLock::new();
    let open = |i| Real::open(i).map(|real| real.device().clone()).map_err(|e| e.to_string());
    ALL.get_or_init(|| (0..real::count()?).map(open).collect()).clone()
}

/// Opens device `index` with everything it has; factors may be rounded to bf16 if `round_bf16` is set.
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

/// Opens device `index` with the capabilities given, for tests; those that it lacks are left out.
///
/// # Errors
/// As for [`open`].
pub fn with_caps(index: usize, caps: Caps) -> Result<Box<dyn Backend>> {
    let mut real = Real::open(index)?;
    let missing = caps.without(real.device().caps.and(Caps::ROUND_BF16));
    real.device_mut().caps = caps.without(missing);
    Ok(Box::new(Cuda::new(real)))
}

/// A GPU played by the host, for tests; `None` without the feature `cuda-emu`. If it `checks`, a launch
/// whose result depends on the order of its threads, or that writes elsewhere, is an error.
#[cfg_attr(not(feature = "cuda-emu"), expect(unused_variables, reason = "there is none"))]
pub fn emulated(caps: Caps, checks: bool) -> Option<Box<dyn Backend>> {
    #[cfg(feature = "cuda-emu")]
    return Some(Box::new(Cuda::new(emulated::Emulated::new(caps, checks))));
    #[cfg(not(feature = "cuda-emu"))]
    return None;
}

/// An opened GPU, real or played.
struct Cuda<D: Driver> {
    driver: Arc<D>,
    /// The kernels of each file that has been loaded, by its row's name.
    functions: Mutex<HashMap<&'static str, Rc<[D::Function]>>>,
    weights: weights::Latest<D>,
}

impl<D: Driver> Cuda<D> {
    fn new(driver: D) -> Self {
        Self { driver: Arc::new(driver), functions: Mutex::default(), weights: Default::default() }
    }
}

impl<D: Driver + 'static> Backend for Cuda<D> {
    fn device(&self) -> &Device {
        self.driver.device()
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
                    let shared = source::number(cuda.source, "SHARED").unwrap_or(0) as u32;
                    let loaded = self.driver.load(cuda.ptx, &entries, shared)?;
                    functions.entry(kernel.name).or_insert(loaded).clone()
                }
            };
            loaded_kernels.push((cuda, loaded));
        }
        let program =
            program::compile(self.driver.clone(), self.weights.of(&self.driver, &plan), plan, loaded_kernels)?;
        Ok(Box::new(program))
    }
}

/// What such a device is, as far as it does not depend on the driver.
fn describe(name: String, kind: super::Kind, caps: Caps, free_bytes: u64) -> Device {
    Device { name, lang: Lang::Cuda, kind, caps, free_bytes, copies_weights: true }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_said_what_is_missing() {
        match super::devices() {
            Ok(devices) => assert!(!devices.is_empty()),
            Err(why) => {
                assert!(!why.is_empty());
                let Err(error) = super::open(0, false) else { panic!("there is no device") };
                assert_eq!(error.exit_code(), 5);
                assert!(error.to_string().starts_with("device `cuda:0`: "), "{error}");
            }
        }
    }
}

#[cfg(all(test, feature = "cuda-emu"))]
mod played {
    use super::emulated::Emulated;
    use super::*;
    use crate::ops::{Element, Function, Linear};
    use crate::plan::{Recorder, Slot, Source};
    use crate::shape::Shape;
    use crate::tensor::Weight;

    const SIDE: usize = 64;

    fn device(free_bytes: u64) -> Cuda<Emulated> {
        let mut emulated = Emulated::new(Caps::NONE, true);
        emulated.device_mut().free_bytes = free_bytes;
        Cuda::new(emulated)
    }

    /// Three linear layers, each in a phase of its own.
    fn three_phases() -> (Arc<Plan>, Slot, Slot) {
        let mut rec = Recorder::new();
        let input = rec.input(Shape::matrix(4, SIDE), Element::F32);
        let mut x = input;
        for (seed, name) in [(3, "one"), (5, "two"), (7, "three")] {
            rec.phase(name);
            let values = (0..SIDE * SIDE).map(|j| (j * seed % 97) as f32 / 400.0 - 0.1).collect();
            let weight = rec.weight(Weight::from_f32(name, &[SIDE, SIDE], values));
            let mut inputs = vec![Some(Source::Slot(x)), Some(weight)];
            inputs.resize(8, None);
            x = rec.node(name, Linear { function: Function::Silu }, &inputs).unwrap();
            rec.keep(x);
        }
        (Arc::new(rec.finish()), input, x)
    }

    fn run(program: &mut dyn Program, plan: &Plan, input: Slot, out: Slot) -> Vec<f32> {
        let values: Vec<f32> = (0..4 * SIDE).map(|j| (j % 13) as f32 / 13.0).collect();
        program.write(input, bytemuck::cast_slice(&values)).unwrap();
        for phase in &plan.phases {
            program.run(phase.nodes.clone()).unwrap();
        }
        let mut result = vec![0f32; out.shape.elements()];
        program.read(out, bytemuck::cast_slice_mut(&mut result)).unwrap();
        result
    }

    #[test]
    fn stages_take_turns_where_they_do_not_fit_together() {
        let (plan, input, out) = three_phases();
        let roomy = device(u64::MAX).compile(plan.clone()).unwrap();
        let want = run({ roomy }.as_mut(), &plan, input, out);
        assert!(want.iter().any(|&v| v != 0.0) && want.iter().all(|v| v.is_finite()));
        let layer = 4 * (SIDE * SIDE) as u64;
        // Activations and one layer fit, two layers do not. The second time, graphs are of weights that are gone.
        let mut program = device(plan.arena_bytes() + layer).compile(plan.clone()).unwrap();
        for _ in 0..2 {
            assert_eq!(run(program.as_mut(), &plan, input, out), want);
        }
        let Err(error) = device(layer).compile(plan) else { panic!("it does not fit") };
        assert_eq!(error.exit_code(), 4, "{error}");
    }

    #[test]
    fn another_plan_of_the_same_weights_shares_them() {
        let gpu = device(u64::MAX);
        let (plan, ..) = three_phases();
        let first = gpu.weights.of(&gpu.driver, &plan);
        assert!(Arc::ptr_eq(&first, &gpu.weights.of(&gpu.driver, &plan)));
        assert!(!Arc::ptr_eq(&first, &gpu.weights.of(&gpu.driver, &three_phases().0)), "other bytes");
    }

    #[test]
    fn what_32_bits_cannot_count_does_not_fit() {
        let mut rec = Recorder::new();
        let input = rec.input(Shape::matrix(1 << 16, 1 << 16), Element::F32);
        rec.node("large", crate::ops::Scale { factor: 1.0 }, &[Some(Source::Slot(input))]).unwrap();
        let Err(error) = device(u64::MAX).compile(Arc::new(rec.finish())) else { panic!("it is too large") };
        assert!(error.exit_code() == 4 && error.to_string().contains("large (scale)"), "{error}");
    }
}
