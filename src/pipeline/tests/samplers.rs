//! Samplers and guidance as plans record them.

use super::*;
use crate::sampler::{Method, Sampler, steps};

fn latents_of(pipeline: &mut Pipeline, request: &Request, inputs: Inputs<'_>) -> Vec<HostTensor> {
    let mut notes = Notes::default();
    let (prior, _) =
        pipeline.prior(request, Options { inputs, observer: Some(&mut notes), ..Options::default() }).unwrap();
    assert_eq!(Some(&prior.stage_c), notes.latents.last());
    notes.latents
}

fn with(method: Method) -> Request {
    Request { steps: (4, 1), method: (method, Method::default()), ..request() }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let differs = squares(&mut a.iter().zip(b).map(|(a, b)| a - b));
    (differs / squares(&mut b.iter().copied())).sqrt()
}

/// Every step of every sampler is what its factors say, with the estimates of the clean latents that the network
/// makes alone: a run of one step from the same latents ends at its estimate.
#[test]
fn steps_are_what_their_factors_say() {
    let (mut pipeline, _) = pipeline();
    for &(name, sampler) in Sampler::NAMES {
        let request = Request { noise: NoiseKind::Philox, ..with(Method { sampler, ..Method::default() }) };
        let latents = latents_of(&mut pipeline, &request, Inputs::default());
        let steps = steps(&request.method.0, request.steps.0);
        let shape = latents[0].shape;
        let stream = NoiseStream::StageC;
        let noise = LatentNoise::of_request(request.noise, request.seed, stream, shape, steps.len(), 0..shape.n);
        let mut before = vec![0.0; shape.elements()];
        for (i, step) in steps.iter().enumerate() {
            let x = if i == 0 { &noise.start } else { &latents[i - 1].values };
            let start = HostTensor { shape, values: x.clone() };
            let one = Method { times: vec![step.r], sampler: Sampler::Ddim, ..Method::default() };
            let alone = Request { steps: (1, 1), method: (one.clone(), one.clone()), ..request.clone() };
            if sampler == Sampler::Gdf && i == 0 {
                // Its first level is clamped, and no other sampler visits it.
                before = vec![f32::NAN; shape.elements()];
                continue;
            }
            let inputs = Inputs { start_c: Some(&start), ..Inputs::default() };
            let clean = latents_of(&mut pipeline, &alone, inputs).remove(0).values;
            let z = &noise.steps[i * shape.elements()..];
            let want: Vec<f32> = (0..x.len())
                .map(|k| {
                    let eps = (clean[k] - step.clean[0] * x[k]) / step.clean[1];
                    let history = if step.h == 0.0 { 0.0 } else { step.h * before[k] };
                    step.a * x[k] + step.b * eps + history + step.sigma * z[k]
                })
                .collect();
            let error = distance(&latents[i].values, &want);
            assert!(error < 1e-4, "{name}, step {i}: {error}");
            before = clean;
        }
    }
}

#[test]
fn steps_can_reuse_what_coarser_levels_made() {
    let (mut pipeline, _) = pipeline();
    let mut run = |method: Method| latents_of(&mut pipeline, &with(method), Inputs::default());
    let every = |reuse| Method { reuse, ..Method::default() };
    let usual = run(every(1));
    let third = run(every(3));
    // Steps 0 and 3 are whole.
    assert_eq!(third[0], usual[0]);
    assert_ne!(third[1], usual[1]);
    assert!(distance(&third[3].values, &usual[3].values) < 0.5);
    let second = run(every(2));
    assert_eq!(second[..2], third[..2]);
    assert_ne!(second[2], third[2]);
    // Guidance begins at step 2, which is whole, and what it leaves is reused in step 3.
    let late = Method { guided: (0.0, 0.6), ..every(16) };
    let whole: Vec<bool> = steps(&late, 4).iter().map(|step| step.whole).collect();
    assert_eq!(whole, [true, false, true, false]);
    let unguided = run(Method { guided: (0.0, 0.0), ..every(16) });
    let late = run(late);
    assert_eq!(late[..2], unguided[..2]);
    assert_ne!(late[2], unguided[2]);
    // Pictures that are made at once do not mix.
    let alone = Request { prompts: request().prompts[..1].to_vec(), count: 1, ..with(every(3)) };
    let alone = latents_of(&mut pipeline, &alone, Inputs::default());
    assert_eq!(alone[3].values, third[3].images(&[0]));
}

#[test]
fn guidance_can_be_for_some_steps_only() {
    let (mut pipeline, _) = pipeline();
    let mut run = |method: Method, guidance: f32| {
        let request = Request { guidance: (guidance, 0.0), ..with(method) };
        latents_of(&mut pipeline, &request, Inputs::default())
    };
    let guided = |low, high| Method { guided: (low, high), ..Method::default() };
    let (all, none) = (run(guided(0.0, 1.0), 4.0), run(Method::default(), 0.0));
    assert_ne!(all, none);
    // Steps are at 1, 0.75, 0.5 and 0.25.
    assert_eq!(run(guided(0.8, 0.9), 4.0), none);
    assert_eq!(run(guided(0.25, 1.0), 4.0), all);
    let late = run(guided(0.0, 0.6), 4.0);
    assert_eq!(late[..2], none[..2]);
    assert_ne!(late[2], none[2]);
    let early = run(guided(0.6, 1.0), 4.0);
    assert_eq!(early[..2], all[..2]);
    assert_ne!(early[2], all[2]);
}

#[test]
fn projection_and_rescaling_change_guided_steps_only() {
    let (mut pipeline, _) = pipeline();
    let mut run = |method: Method, guidance: f32| {
        let request = Request { guidance: (guidance, 0.0), ..with(method) };
        latents_of(&mut pipeline, &request, Inputs::default()).pop().unwrap().values
    };
    let usual = run(Method::default(), 4.0);
    let projected = |rescale, parallel| Method { rescale, parallel, ..Method::default() };
    // Almost none of either is almost the usual guidance, computed by the other op.
    assert!(distance(&run(projected(1e-7, 1.0), 4.0), &usual) < 1e-4);
    for method in [projected(0.7, 1.0), projected(0.0, 0.0)] {
        assert!(distance(&run(method.clone(), 4.0), &usual) > 1e-3);
        assert_eq!(run(method, 1.0), run(Method::default(), 1.0));
    }
}
