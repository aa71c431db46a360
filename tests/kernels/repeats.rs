//! Linear layers whose input GRN scales, on Hopper: their fragments pass through registers that MMAs in flight read. Where one
//! is overwritten too early, results are wrong now and then. So each kernel runs many times, must give the same bits every
//! time, and what the kernel for older GPUs gives.

use std::sync::Arc;

use cascade_rt::backend::{Backend, cuda};
use cascade_rt::ops::{Element, Function, Linear};
use cascade_rt::plan::{Plan, Recorder, Slot, Source};
use cascade_rt::registry::{self, Caps, Kernel};
use cascade_rt::shape::Shape;
use cascade_rt::tensor::Dtype;

use super::cases;

/// Half a unit in the last place of bf16, by which x · scale + shift may be rounded otherwise, is averaged out over K.
const TOLERANCE: f32 = 2e-3;

/// A layer of rows × K → columns: the plan, and the slots of x, of its scale and of the result.
fn layer([rows, k, columns]: [usize; 3]) -> (Arc<Plan>, [Slot; 3]) {
    let mut rec = Recorder::new();
    let x = rec.input(Shape::new(2, 1, rows / 2, k), Element::GemmInput);
    let scale = rec.input(Shape::new(2, 1, 1, k), Element::F32);
    let mut inputs = vec![Some(Source::Slot(x)), Some(rec.weight(cases::weight(&[columns, k], 300, Dtype::Bf16)))];
    inputs.resize(8, None);
    inputs[Linear::SCALE] = Some(Source::Slot(scale));
    inputs[Linear::SHIFT] = Some(rec.weight(cases::weight(&[k], 301, Dtype::Bf16)));
    let y = rec.node("layer", Linear { function: Function::Identity }, &inputs).unwrap();
    rec.keep(y);
    (Arc::new(rec.finish()), [x, scale, y])
}

/// The results of so many runs of a layer.
fn runs(backend: &dyn Backend, kernel: &'static Kernel, sizes: [usize; 3], count: usize) -> Vec<Vec<f32>> {
    let (plan, [x, scale, y]) = layer(sizes);
    let mut program = backend.compile_with(plan, &[kernel]).unwrap();
    program.write(x, bytemuck::cast_slice(&cases::noise(x.shape.elements(), 302, 0.1))).unwrap();
    program.write(scale, bytemuck::cast_slice(&cases::noise(scale.shape.elements(), 303, 1.0))).unwrap();
    let mut run = || {
        program.run(0..1).unwrap();
        let mut values = vec![0f32; y.shape.elements()];
        program.read(y, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    };
    (0..count).map(|_| run()).collect()
}

#[test]
fn scaled_layers_give_the_same_bits_every_time() {
    let hopper = Caps::SM90A.and(Caps::ROUND_BF16).and(Caps::DEPENDENT_LAUNCH);
    let real = cuda::usable().into_iter().find(|(_, device)| device.caps.contains(Caps::SM90A));
    // On a GPU Stage C's down projection, on the emulated one an excerpt that every tiling cuts off somewhere.
    let (backend, sizes, count) = match real {
        Some((i, _)) => (cuda::with_caps(i, hopper).unwrap(), [1152, 8192, 2048], 100),
        None => match cuda::emulated(hopper, false) {
            Some(emulated) => (emulated, [130, 320, 200], 2),
            None => return eprintln!("SKIPPED scaled layers: neither a Hopper GPU nor the feature cuda-emu"),
        },
    };
    let (plan, _) = layer(sizes);
    let rows = registry::admissible(&plan.nodes[0], &plan, backend.device().target());
    let (newer, older): (Vec<_>, Vec<_>) = rows.partition(|row| row.needs.contains(Caps::SM90A));
    assert!(newer.len() > 6 && older[0].rounds(), "there are kernels of both kinds");
    let want = runs(backend.as_ref(), older[0], sizes, 1).remove(0);
    let mut wrong = Vec::new();
    for row in newer {
        let results = runs(backend.as_ref(), row, sizes, count);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let first = bits(&results[0]);
        let others = results.iter().filter(|result| bits(result) != first).count();
        let (at, error) = cases::worst(&results[0], &want);
        println!("{} {count} runs, {others} with other bits, {error:.1e} from {}", row.name, older[0].name);
        if others > 0 || error > TOLERANCE {
            wrong.push(format!("{}: {others} of {count} runs differ, {error:.2e} at {at}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
