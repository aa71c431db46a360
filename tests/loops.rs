//! Loops of a plan on every device: segments that run at some steps and not at others, and what they leave for
//! one another.

mod common;

use std::sync::Arc;

use cascade_rt::ops::{Activation, Add, Element, Function, Scale};
use cascade_rt::plan::{Recorder, Slot, Source};
use cascade_rt::shape::Shape;

const LEN: usize = 300;
const STEPS: usize = 6;

fn slot(slot: Slot) -> Option<Source> {
    Some(Source::Slot(slot))
}

/// `x ← (x + cached) + noise` for six steps. `cached = 2·x` is computed anew at steps 0, 2 and 5 only, and before some
/// steps a preview, whose temporary values must not touch anything, is computed and read.
#[test]
fn segments_of_a_loop_run_at_any_step() {
    let mut rec = Recorder::new();
    let condition = rec.segment("condition");
    let given = rec.input(Shape::vector(LEN), Element::F32);
    let x = rec.node("start", Scale { factor: 0.5 }, &[slot(given)]).unwrap();
    let (preview, refresh, step, noise, picture) = rec
        .repeat(STEPS, |rec| {
            let preview = rec.segment("preview");
            let silu = Activation { function: Function::Silu };
            let picture = rec.node("silu", silu, &[slot(x)])?;
            let picture = rec.node("twice", Scale { factor: 2.0 }, &[slot(picture)])?;
            rec.keep(picture);
            let refresh = rec.segment("refresh");
            let cached = rec.node("cached", Scale { factor: 2.0 }, &[slot(x)])?;
            let step = rec.segment("step");
            let noise = rec.input(Shape::vector(LEN), Element::F32);
            let change = rec.node("change", Add, &[slot(cached), slot(noise)])?;
            rec.update("x", Add, &[slot(x), slot(change)], x)?;
            Ok((preview, refresh, step, noise, picture))
        })
        .unwrap();
    let after = rec.segment("after");
    let result = rec.node("result", Scale { factor: 1.0 / 1024.0 }, &[slot(x)]).unwrap();
    rec.keep(result);
    let plan = Arc::new(rec.finish());

    // Small multiples of powers of two, so that every device's sums are exact.
    let start: Vec<f32> = (0..LEN).map(|i| i as f32 - 100.0).collect();
    let noise_of = |step: usize| -> Vec<f32> { (0..LEN).map(|i| ((i * 7 + step) % 5) as f32).collect() };
    for backend in common::exact() {
        let name = backend.device().name.clone();
        let mut program = backend.compile(plan.clone()).unwrap();
        program.write(given, bytemuck::cast_slice(&start)).unwrap();
        program.run(plan.nodes_of(condition)).unwrap();
        let mut want: Vec<f32> = start.iter().map(|v| 0.5 * v).collect();
        let mut cached = Vec::new();
        for i in 0..STEPS {
            program.write(noise, bytemuck::cast_slice(&noise_of(i))).unwrap();
            if [0, 2, 5].contains(&i) {
                program.run(plan.nodes_of(refresh)).unwrap();
                cached = want.iter().map(|v| 2.0 * v).collect();
            }
            if i % 2 == 1 {
                program.run(plan.nodes_of(preview)).unwrap();
                let mut got = vec![0f32; LEN];
                program.read(picture, bytemuck::cast_slice_mut(&mut got)).unwrap();
                let silu = |v: f32| 2.0 * v / (1.0 + (-v).exp());
                let close = |(got, v): (&f32, &f32)| (got - silu(*v)).abs() <= 1e-5 * (1.0 + silu(*v).abs());
                assert!(got.iter().zip(&want).all(close), "{name}: the preview at step {i}");
            }
            program.run(plan.nodes_of(step)).unwrap();
            for ((x, cached), noise) in want.iter_mut().zip(&cached).zip(noise_of(i)) {
                *x += cached + noise;
            }
        }
        program.run(plan.nodes_of(after)).unwrap();
        let mut got = vec![0f32; LEN];
        program.read(result, bytemuck::cast_slice_mut(&mut got)).unwrap();
        let want: Vec<f32> = want.iter().map(|v| v / 1024.0).collect();
        assert_eq!(got, want, "{name}");
    }
}
