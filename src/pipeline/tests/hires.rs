//! Two passes of Stage C.

use super::*;
use crate::noise::NoiseKind;
use crate::picture::interpolate;
use crate::pipeline::Init;

fn hires(strength: f32) -> Request {
    Request { hires: 1.5, hires_strength: strength, ..request() }
}

fn stage_c(pipeline: &mut Pipeline, request: &Request) -> HostTensor {
    pipeline.prior(request, Options::default()).unwrap().0.stage_c
}

/// Nothing is left of the first pass at a strength of 1, and nothing is done to it at 0. In between, the second pass is a run
/// that begins with what the first one has made.
#[test]
fn two_passes_are_two_runs() {
    let (mut pipeline, _) = pipeline();
    let large = Request { width: 112, height: 96, ..request() };
    assert_eq!((hires(0.5).last_pass().width, hires(0.5).last_pass().height), (large.width, large.height));
    for noise in [NoiseKind::Torch, NoiseKind::TorchBatch, NoiseKind::Philox] {
        let of = |request: Request| Request { noise, ..request };
        let plain = pipeline.generate(&of(large.clone())).unwrap();
        assert_eq!(pipeline.generate(&of(hires(1.0))).unwrap(), plain, "{noise}: a strength of 1");

        let small = stage_c(&mut pipeline, &of(request()));
        let (h, w) = large.sizes().c;
        let enlarge =
            |image| interpolate(&small.images(&[image]), [small.shape.h, small.shape.w], [h, w], small.shape.c);
        let values: Vec<f32> = (0..small.shape.n).flat_map(enlarge).collect();
        let enlarged = HostTensor { shape: small.shape.with_hw(h, w), values };
        assert_eq!(stage_c(&mut pipeline, &of(hires(0.0))), enlarged, "{noise}: a strength of 0");

        let init = Init { latents: &enlarged, strength: 0.6, repaint: None };
        let second = Inputs { init: Some(init), ..Inputs::default() };
        let want = pictures(&mut pipeline, &of(large.clone()), second);
        assert!(want != plain);
        assert_eq!(pipeline.generate(&of(hires(0.6))).unwrap(), want, "{noise}: two runs");
    }
}

/// Batches, images and stages apart make the same pictures.
#[test]
fn two_passes_of_parts() {
    let (mut pipeline, _) = pipeline();
    let want = pipeline.generate(&hires(0.6)).unwrap();
    assert_eq!((want.len(), want[0].width, want[0].height), (4, 112, 96));
    let mut some = Vec::new();
    for (images, batch) in [(0..1, 1), (1..4, 2)] {
        let options = Options { images: Some(images), batch: Some(batch), ..Options::default() };
        let run = pipeline.run(&hires(0.6), options, |batch| {
            some.extend(batch.images);
            Ok(())
        });
        run.unwrap();
    }
    assert_eq!(some, want);
    let (prior, _) = pipeline.prior(&hires(0.6), Options::default()).unwrap();
    assert_eq!(pictures(&mut pipeline, &hires(0.6), prior.inputs()), want);
    let text = Inputs { text: Some(&prior.text), ..Inputs::default() };
    assert_eq!(pictures(&mut pipeline, &hires(0.6), text), want);
}

/// The observer is told of one batch with both passes, and of the results of the last.
#[test]
fn two_passes_are_seen() {
    #[derive(Default)]
    struct Seen {
        outlines: Vec<Vec<(StageName, usize)>>,
        plans: usize,
        notes: Notes,
    }
    impl Observer for Seen {
        fn planned(&mut self, _: &crate::pipeline::Footprint) {
            self.plans += 1;
        }
        fn batch(&mut self, outline: &crate::pipeline::Outline) {
            self.outlines.push(outline.stages.iter().map(|(stage, steps, _)| (*stage, *steps)).collect());
        }
        fn begin(&mut self, stage: StageName, steps: usize) {
            self.notes.begin(stage, steps);
        }
        fn tensor(&mut self, name: &'static str, tensor: HostTensor) {
            self.notes.tensor(name, tensor);
        }
    }
    let (mut pipeline, _) = pipeline();
    let mut seen = Seen::default();
    let options = Options { keep: true, observer: Some(&mut seen), ..Options::default() };
    pipeline.run(&hires(0.6), options, |_| Ok(())).unwrap();
    use StageName::{StageA, StageB, StageC, Text};
    let stages = vec![(StageC, 3), (StageC, 1), (StageB, 2), (StageA, 1)];
    assert_eq!(seen.outlines, [vec![(Text, 1)], stages.clone()]);
    assert_eq!((&seen.notes.stages[1..], seen.plans), (&stages[..], 2), "the text's plan, and the larger one's");
    let shapes: Vec<_> = seen.notes.tensors.iter().map(|(name, tensor)| (*name, tensor.shape.w)).collect();
    assert_eq!(shapes[3..], [("stage_c", 3), ("stage_b", 28), ("image", 112)]);
}

/// What a first pass is given has its size, and a mask has no second one.
#[test]
fn two_passes_take_what_fits() {
    let (mut pipeline, compiled) = pipeline();
    let size = request().sizes().c;
    let tensor = |n, (h, w), c| HostTensor { shape: Shape::new(n, h, w, c), values: vec![0.1; n * h * w * c] };
    let (start, latents) = (tensor(4, size, 16), tensor(1, size, 16));
    let init = Init { latents: &latents, strength: 0.5, repaint: None };
    let with = |init| Inputs { init: Some(init), start_c: Some(&start), ..Inputs::default() };
    let plain = pipeline.generate(&hires(0.6)).unwrap();
    let begun = pictures(&mut pipeline, &hires(0.6), with(init));
    assert!(begun != plain && begun[0].width == 112);

    let before = compiled.load(Ordering::Relaxed);
    let mut message = |inputs| {
        let error = pipeline.run(&hires(0.6), Options { inputs, ..Options::default() }, |_| Ok(())).unwrap_err();
        error.to_string()
    };
    let small = tensor(4, request().sizes().b, 4);
    let found = message(Inputs { start_b: Some(&small), ..Inputs::default() });
    assert!(found.starts_with("start_b: expected [4, 24, 28, 4]"), "{found}");
    let (picture, mask) = [(); 2].map(|()| Image { width: 72, height: 64, rgb: vec![0; 72 * 64 * 3] }).into();
    let repaint = Some(crate::pipeline::Repaint { picture: &picture, mask: &mask });
    let found = message(with(Init { repaint, ..init }));
    assert!(found.starts_with("hires: expected 1, one pass, where a mask"), "{found}");
    assert_eq!(compiled.load(Ordering::Relaxed), before, "nothing is compiled for them");
}
