//! Shaders whose grid is dispatched in parts: the same bytes as from one dispatch.

use std::path::Path;

use cascade_rt::backend::wgpu::{Less, Wgpu, adapters};
use cascade_rt::backend::{Backend, Program};
use cascade_rt::check::cases::{self, One, Stored};
use cascade_rt::registry::{self, Caps, Kernel, Lang};
use cascade_rt::tensor::Dtype;

use super::{Checked, Mode};

/// A device that allows three workgroups along each axis and little work in a submission.
const LESS: Less = Less {
    groups: Some(3),
    submission: Some(1 << 17),
    memory: None,
    binding: None,
    buffer: None,
    suspects: Caps::NONE,
};

/// Results with more elements than this take too many parts.
const LARGE: usize = 1 << 14;

/// The cases of a shader, each on `whole` and in parts.
pub fn check(
    kernel: &'static Kernel,
    whole: &dyn Backend,
    shader_dir: Option<&Path>,
    mode: Mode,
    checked: &mut Checked,
) {
    if kernel.lang != Lang::Wgsl || mode.digests {
        return;
    }
    let adapter = adapters().iter().position(|adapter| adapter.name == whole.device().name).unwrap();
    let parted = Wgpu::with_less(adapter, whole.device().caps, shader_dir, LESS).unwrap();
    let stored = Stored { dtype: Dtype::F32, state: false, gemm_inputs: false };
    for (i, _) in cases::of(kernel.op) {
        let Some(one) = One::of(i, stored).filter(|one| one.elements() <= LARGE) else { continue };
        let chosen = registry::choose(&one.plan().nodes[0], one.plan(), whole.device().target()).0;
        if !std::ptr::eq(chosen, kernel) || mode.fail_fast && !checked.failures.is_empty() {
            continue;
        }
        let compile =
            |on: &dyn Backend| -> Box<dyn Program> { on.compile_with(one.plan().clone(), &[kernel]).unwrap() };
        let [got, want] = [&parted, whole].map(|on: &dyn Backend| one.run(compile(on)).unwrap());
        if got.iter().map(|v| v.to_bits()).ne(want.iter().map(|v| v.to_bits())) {
            let (at, error) = cases::worst(&got, &want);
            checked.failures.push(format!("{} case {i}: in parts {error:.2e} at {at}, or its sign", kernel.name));
        }
    }
}
