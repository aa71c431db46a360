//! The exact GELU, to more digits than cases of layers can tell apart.

use std::sync::Arc;

use cascade_rt::backend::Backend;
use cascade_rt::ops::{Activation, Element, Function};
use cascade_rt::plan::{Recorder, Source};
use cascade_rt::registry::{Kernel, Lang};
use cascade_rt::shape::Shape;

use super::{Checked, Mode};

const POINTS: usize = 20_001;
/// Allowed error, of |x|: a few units in the last place of what a result is the sum of.
const TOLERANCE: f64 = 6e-7;
/// CUDA's: allowed error of the small results of x from −5.5 on, of what they are.
const SMALL: f64 = 1e-4;

/// GELU on [−10, 10], if `kernel` is one of activations. The digest needs none of it: all of it is in this file.
pub fn check(kernel: &'static Kernel, backend: &dyn Backend, mode: Mode, checked: &mut Checked) {
    if kernel.op != "activation" || mode.digests {
        return;
    }
    let mut rec = Recorder::new();
    let x = rec.input(Shape::vector(POINTS), Element::F32);
    let y = rec.node("gelu", Activation { function: Function::GeluErf }, &[Some(Source::Slot(x))]).unwrap();
    rec.keep(y);
    let mut program = backend.compile_with(Arc::new(rec.finish()), &[kernel]).unwrap();
    let xs: Vec<f32> = (0..POINTS).map(|i| i as f32 / 1000.0 - 10.0).collect();
    program.write(x, bytemuck::cast_slice(&xs)).unwrap();
    program.run(0..1).unwrap();
    let mut ys = vec![0f32; POINTS];
    program.read(y, bytemuck::cast_slice_mut(&mut ys)).unwrap();
    let gelu = |x: f64| 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2);
    let error = |(&x, &y): (&f32, &f32)| (f64::from(y) - gelu(f64::from(x))).abs() / f64::from(x).abs().max(1e-3);
    // NaN is worse than anything.
    let larger = |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b) };
    let worst = xs.iter().zip(&ys).map(error).fold(0.0, larger);
    let of_small = |(&x, &y): (&f32, &f32)| (f64::from(y) / gelu(f64::from(x)) - 1.0).abs();
    let small = xs.iter().zip(&ys).filter(|(x, _)| (-5.5..0.0).contains(*x)).map(of_small).fold(0.0, larger);
    // Others add two numbers that cancel there.
    let limits = [(worst, TOLERANCE), (small, if kernel.lang == Lang::Cuda { SMALL } else { f64::INFINITY })];
    let differs = limits.into_iter().filter(|(error, limit)| error > limit);
    checked.ran += 1;
    checked
        .failures
        .extend(differs.map(|(error, limit)| format!("{}: GELU {error:.2e}, allowed {limit:.0e}", kernel.name)));
}
