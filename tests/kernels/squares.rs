//! Response norms that find what the layer before them has left, `kernels/grn_squares.cuh`, for every pair of kernels that can.

use std::sync::Arc;

use cascade_rt::backend::{Backend, cpu};
use cascade_rt::check::cases;
use cascade_rt::ops::{Element, Function, GrnScale, Linear};
use cascade_rt::plan::{Plan, Recorder, Slot, Source};
use cascade_rt::registry::cuda::Squares;
use cascade_rt::registry::{self, Kernel, Launch};
use cascade_rt::shape::Shape;
use cascade_rt::tensor::Dtype;

use super::{Checked, Mode};

/// Parts of the second image begin inside a tile; neither rows nor channels fill the last one.
const X: Shape = Shape { n: 2, h: 40, w: 8, c: 72 };
const CHANNELS: usize = 232;
const TOLERANCE: f32 = 2e-5;

/// Pairs of which `kernel` is one, on a device that can run both.
pub fn check(kernel: &'static Kernel, backend: &dyn Backend, mode: Mode, checked: &mut Checked) {
    let able = |row: &&'static Kernel| backend.device().caps.contains(row.needs);
    let rows = |squares| {
        registry::kernels(kernel.lang)
            .filter(able)
            .filter(move |row| matches!(row.launch, Launch::Cuda(cuda) if cuda.squares == squares))
    };
    let pairs = rows(Squares::Left).flat_map(|layer| rows(Squares::Taken).map(move |norm| [layer, norm]));
    for [layer, norm] in pairs.filter(|pair| pair.iter().any(|row| std::ptr::eq(*row, kernel))) {
        checked.ran += 1;
        checked.with.extend([layer, norm].iter().filter(|row| !std::ptr::eq(**row, kernel)).map(|row| row.name));
        if mode.digests || mode.fail_fast && !checked.failures.is_empty() {
            continue;
        }
        let (plan, [x, y, scale]) = layer_and_norm();
        let mut program = backend.compile_with(plan, &[layer, norm]).unwrap();
        program.write(x, bytemuck::cast_slice(&cases::noise(X.elements(), 100, 0.3))).unwrap();
        program.run(0..2).unwrap();
        let mut read = |slot: Slot| {
            let mut values = vec![0f32; slot.shape.elements()];
            program.read(slot, bytemuck::cast_slice_mut(&mut values)).unwrap();
            values
        };
        let (at, error) = cases::worst(&read(scale), &definition(y, &read(y)));
        if error > TOLERANCE {
            checked
                .failures
                .push(format!("{} {}: {error:.2e} at {at}, allowed {TOLERANCE:.0e}", layer.name, norm.name));
        }
    }
}

fn norm(rec: &mut Recorder, y: Slot) -> Slot {
    let gamma = rec.weight(cases::weight(&[y.shape.c], 201, Dtype::F32));
    let scale = rec.node("norm", GrnScale { eps: 1e-6 }, &[Some(Source::Slot(y)), Some(gamma)]).unwrap();
    rec.keep(scale);
    scale
}

/// A layer and its norm: the plan, what it reads, the layer's result, the norm's.
fn layer_and_norm() -> (Arc<Plan>, [Slot; 3]) {
    let mut rec = Recorder::new();
    let x = rec.input(X, Element::GemmInput);
    let mut inputs = vec![Some(Source::Slot(x)), Some(rec.weight(cases::weight(&[CHANNELS, X.c], 200, Dtype::Bf16)))];
    inputs.resize(8, None);
    let y = rec.node("layer", Linear { function: Function::GeluErf }, &inputs).unwrap();
    rec.keep(y); // which makes it f32: rounding would hide errors
    let scale = norm(&mut rec, y);
    (Arc::new(rec.finish()), [x, y, scale])
}

/// The norm of these values by the op's definition.
fn definition(y: Slot, values: &[f32]) -> Vec<f32> {
    let mut rec = Recorder::new();
    let y = rec.input(y.shape, Element::F32);
    let scale = norm(&mut rec, y);
    let mut program = cpu::Cpu::reference().compile(Arc::new(rec.finish())).unwrap();
    program.write(y, bytemuck::cast_slice(values)).unwrap();
    program.run(0..1).unwrap();
    let mut norms = vec![0f32; scale.shape.elements()];
    program.read(scale, bytemuck::cast_slice_mut(&mut norms)).unwrap();
    norms
}
