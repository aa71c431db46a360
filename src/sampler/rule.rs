//! What each step computes, as factors of a linear combination.

use super::schedule::{Level, levels};
use super::{Method, Sampler};

/// One sampling step: `x ← a·x + b·ε + h·m + σ·z`, with the network's prediction `ε` at time `r`, the estimate `m` of
/// the clean latents one step before, and standard normal `z`. All factors are unitless.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Diffusion time that the network is told, `[0, 1]`.
    pub r: f32,
    /// Factor of the latents.
    pub a: f32,
    /// Factor of the prediction.
    pub b: f32,
    /// Factor of the estimate of the step before; 0 where the sampler has no history, and in the first step.
    pub h: f32,
    /// Factor of the noise; 0 where the sampler adds none, and in the last step.
    pub sigma: f32,
    /// Factors of the latents and of the prediction in this step's estimate of the clean latents.
    pub clean: [f32; 2],
    /// Whether guidance applies.
    pub guided: bool,
    /// Whether the whole network is evaluated, rather than its finest level around what the last whole step has left.
    pub whole: bool,
}

/// The steps of a run, first to last.
///
/// Sources: `ddpm` is `DDPMWuerstchenScheduler.step` in diffusers; `gdf` the original repository's `gdf/samplers.py`;
/// `ddim` Song et al. 2021, equation 12 with η = 0; the Euler and DPM-Solver++ samplers are k-diffusion's
/// `sampling.py`, whose `x` is ours divided by the signal's factor; `lcm` Luo et al. 2023, algorithm 3.
///
/// ```
/// use cascade_rt::sampler::{Method, steps};
/// let steps = steps(&Method::default(), 20);
/// assert_eq!((steps.len(), steps[0].r, steps[19].sigma), (20, 1.0, 0.0));
/// ```
pub fn steps(method: &Method, count: u32) -> Vec<Step> {
    steps_from(method, count, 0)
}

/// The same where the steps before `first` are not taken, so that step `first` has none before it.
pub fn steps_from(method: &Method, count: u32, first: usize) -> Vec<Step> {
    let levels: Vec<Level> = levels(method, count);
    let at = |i: usize| Noise::of(levels[i].share);
    let (low, high) = method.guided;
    let guided = |i: usize| (low..=high).contains(&levels[i].t);
    let step = |i: usize| {
        let now = at(i);
        let is_last = i + 2 == levels.len();
        let next = match method.sampler {
            // diffusers ends at the schedule's last level, all others without any noise.
            Sampler::Ddpm => at(i + 1),
            _ if is_last => Noise { signal: 1.0, noise: 0.0 },
            _ => at(i + 1),
        };
        let before = (i > first).then(|| at(i - 1));
        let factors = match (method.sampler, is_last) {
            (Sampler::Ddpm, _) => ddpm(levels[i].share, levels[i + 1].share, is_last),
            (_, true) => Factors::clean(1.0, now),
            (Sampler::Gdf, _) => gdf(now, next),
            (Sampler::Ddim, _) => Factors::clean(next.signal, now).plus_prediction(next.noise),
            (Sampler::Euler, _) => euler(now, next, next.ratio(), 0.0),
            (Sampler::EulerAncestral, _) => {
                let (from, to) = (now.ratio(), next.ratio());
                let up = (to * (from * from - to * to).sqrt() / from).min(to);
                euler(now, next, (to * to - up * up).sqrt(), up)
            }
            (Sampler::Dpmpp2m, _) => dpmpp_2m(before, now, next),
            (Sampler::Dpmpp2mSde, _) => dpmpp_2m_sde(before, now, next),
            (Sampler::Lcm, _) => Factors { sigma: next.noise, ..Factors::clean(next.signal, now) },
        };
        let clean = Factors::clean(1.0, now);
        Step {
            r: levels[i].r,
            a: factors.a as f32,
            b: factors.b as f32,
            h: factors.h as f32,
            sigma: factors.sigma as f32,
            clean: [clean.a as f32, clean.b as f32],
            guided: guided(i),
            whole: i.is_multiple_of(method.reuse.max(1) as usize) || guided(i) != guided(i - 1),
        }
    };
    (0..levels.len().saturating_sub(1)).map(step).collect()
}

/// The first step whose diffusion time is at most `strength`; `count` if there is none.
///
/// ```
/// use cascade_rt::sampler::{Method, first_step};
/// let first = |strength| first_step(&Method::default(), 20, strength);
/// assert_eq!([1.0, 0.6, 0.59, 0.0].map(first), [0, 8, 9, 20]);
/// ```
pub fn first_step(method: &Method, count: u32, strength: f32) -> usize {
    let levels = levels(method, count);
    let steps = levels.len().saturating_sub(1);
    levels[..steps].iter().position(|level| level.t - strength < 1e-6).unwrap_or(steps)
}

/// A noise level: `x = signal·x₀ + noise·ε`, with `signal² + noise² = 1`.
#[derive(Debug, Clone, Copy)]
struct Noise {
    signal: f64,
    noise: f64,
}

impl Noise {
    fn of(share: f64) -> Self {
        Self { signal: share.sqrt(), noise: (1.0 - share).sqrt() }
    }

    /// Noise-to-signal ratio, k-diffusion's σ.
    fn ratio(self) -> f64 {
        self.noise / self.signal
    }

    /// Half the log-SNR, λ in the papers on DPM-Solver.
    fn lambda(self) -> f64 {
        -self.ratio().ln()
    }
}

/// The factors of a step in f64, named as in [`Step`].
#[derive(Debug, Clone, Copy)]
struct Factors {
    a: f64,
    b: f64,
    h: f64,
    sigma: f64,
}

impl Factors {
    /// `k·x₀` with the estimate of the clean latents, `x₀ = (x − noise·ε) / signal`.
    fn clean(k: f64, now: Noise) -> Self {
        Self { a: k / now.signal, b: -k * now.ratio(), h: 0.0, sigma: 0.0 }
    }

    fn plus_prediction(self, b: f64) -> Self {
        Self { b: self.b + b, ..self }
    }
}

fn ddpm(share: f64, next: f64, is_last: bool) -> Factors {
    let alpha = share / next;
    let a = (1.0 / alpha).sqrt();
    let sigma = ((1.0 - alpha) * (1.0 - next) / (1.0 - share)).sqrt();
    Factors { a, b: -a * (1.0 - alpha) / (1.0 - share).sqrt(), h: 0.0, sigma: if is_last { 0.0 } else { sigma } }
}

fn gdf(now: Noise, next: Noise) -> Factors {
    let sigma = next.noise / now.noise * (1.0 - (now.signal / next.signal).powi(2)).max(0.0).sqrt();
    let along = (next.noise * next.noise - sigma * sigma).max(0.0).sqrt();
    Factors { sigma, ..Factors::clean(next.signal, now).plus_prediction(along) }
}

/// Euler's method from the noise-to-signal ratio of `now` down to `down`, then noise of ratio `up`.
fn euler(now: Noise, next: Noise, down: f64, up: f64) -> Factors {
    let b = next.signal * (down - now.ratio());
    Factors { a: next.signal / now.signal, b, h: 0.0, sigma: next.signal * up }
}

/// Half the ratio of a step's `length` in λ to that of the step before. 0, which makes the step one of first order, where
/// there was none, or none of any length, because the schedule is clamped.
fn slope(before: Option<Noise>, now: Noise, length: f64) -> f64 {
    let lengths = before.map(|before| now.lambda() - before.lambda());
    lengths.filter(|before| *before > 0.0).map_or(0.0, |before| length / before / 2.0)
}

/// With the estimates `D` of this step and `m` of the one before: `x' = noise'/noise·x + k·((1 + s)·D − s·m)`, where
/// `k = signal'·(1 − e^(−h))`, `h` is the step's length in λ, and `s` the [`slope`].
fn dpmpp_2m(before: Option<Noise>, now: Noise, next: Noise) -> Factors {
    let length = next.lambda() - now.lambda();
    let k = -next.signal * (-length).exp_m1();
    let slope = slope(before, now, length);
    let estimate = Factors::clean(k * (1.0 + slope), now);
    Factors { a: next.noise / now.noise + estimate.a, h: -k * slope, ..estimate }
}

/// The same for the stochastic equation, η = 1: `x' = noise'/noise·e^(−h)·x + k·(D + s·(D − m)) + σ·z`, where
/// `k = signal'·(1 − e^(−2h))` and `σ = noise'·sqrt(1 − e^(−2h))`.
fn dpmpp_2m_sde(before: Option<Noise>, now: Noise, next: Noise) -> Factors {
    let length = next.lambda() - now.lambda();
    let lost = -(-2.0 * length).exp_m1();
    let k = next.signal * lost;
    let slope = slope(before, now, length);
    let estimate = Factors::clean(k * (1.0 + slope), now);
    let kept = next.noise / now.noise * (-length).exp();
    Factors { a: kept + estimate.a, h: -k * slope, sigma: next.noise * lost.sqrt(), ..estimate }
}

#[cfg(test)]
mod tests {
    use super::super::Spacing;
    use super::*;
    use crate::noise::TorchGenerator;
    use half::bf16;

    const LATENTS: usize = 16 * 24 * 24;

    /// diffusers' `ᾱ` at the times of 20 steps, f32.
    const SHARES: [f32; 21] = [
        1e-4,
        0.006059641,
        0.024091726,
        0.05365919,
        0.09404556,
        0.14427207,
        0.20312144,
        0.2691676,
        0.3408096,
        0.41631153,
        0.49384364,
        0.5715267,
        0.6474783,
        0.7198575,
        0.7869105,
        0.8470122,
        0.89870596,
        0.94073904,
        0.97209275,
        0.9920073,
        0.9999,
    ];
    /// The same at the times rounded to bf16.
    const SHARES_BF16: [f32; 20] = [
        1e-4,
        0.0062500723,
        0.02484411,
        0.052567042,
        0.093335964,
        0.14427207,
        0.20410207,
        0.2713303,
        0.33850306,
        0.41511142,
        0.49384364,
        0.5727316,
        0.64689636,
        0.72040427,
        0.7859123,
        0.8470122,
        0.8985221,
        0.94045097,
        0.97204244,
        0.9919936,
    ];

    fn sums(x: &[f32]) -> (f64, f64) {
        let wide = || x.iter().map(|&x| f64::from(x));
        (wide().sum(), wide().map(|x| x * x).sum())
    }

    /// 20 steps of `ε = x / 2` in f32, against diffusers.
    #[test]
    fn golden_loop_in_f32() {
        let mut generator = TorchGenerator::new(0);
        let (mut x, mut z) = (vec![0.0; LATENTS], vec![0.0; LATENTS]);
        generator.normal_f32(&mut x);
        for step in steps(&Method::default(), 20) {
            generator.normal_f32(&mut z);
            for (x, z) in x.iter_mut().zip(&z) {
                *x = step.a * *x + step.b * (0.5 * *x) + step.sigma * z;
            }
        }
        let want = [-1.274029, -5.370808, -0.755228, -2.319988, 4.816897, 3.53762, -4.004404, 1.715889];
        let got = x[..6].iter().chain(&x[LATENTS - 2..]);
        assert!(got.zip(want).all(|(got, want)| (got - want).abs() < 1e-3), "{:?}", &x[..6]);
        let (sum, squares) = sums(&x);
        assert!((sum + 504.91823).abs() < 0.1 && (squares - 131646.80414).abs() < 1.0, "{sum} {squares}");
    }

    /// The same in bf16, where diffusers rounds times and results: equal to the
    /// bit with its own `ᾱ`, an ulp off ours where its f32 cosine is.
    #[test]
    fn golden_loop_in_bf16() {
        let round = |x: f32| bf16::from_f32(x).to_f32();
        let mut generator = TorchGenerator::new(0);
        let (mut x, mut z) = (vec![0.0; LATENTS], vec![0.0; LATENTS]);
        generator.normal_bf16(&mut x);
        for (i, share) in SHARES_BF16.into_iter().enumerate() {
            let next = SHARES[i + 1];
            let alpha = share / next;
            let sigma = if i == 19 { 0.0 } else { ((1.0 - alpha) * (1.0 - next) / (1.0 - share)).sqrt() };
            generator.normal_bf16(&mut z);
            for (x, z) in x.iter_mut().zip(&z) {
                let mu = (1.0 / alpha).sqrt() * (*x - (1.0 - alpha) * round(0.5 * *x) / (1.0 - share).sqrt());
                *x = round(mu + sigma * z);
            }
        }
        assert_eq!(x[..6], [4.5625, -0.74609375, 1.1328125, 4.625, 3.984375, -6.3125]);
        assert_eq!(x[LATENTS - 2..], [1.375, 0.71875]);
        let (sum, squares) = sums(&x);
        assert!((sum - 165.89795).abs() < 1e-4 && (squares - 124363.69850).abs() < 1e-4, "{sum} {squares}");
    }

    /// Every sampler, on a toy network, against `tools/reference/samplers.py`.
    #[test]
    fn runs_are_those_of_other_implementations() {
        #[derive(serde::Deserialize)]
        struct Run {
            #[serde(flatten)]
            method: Method,
            steps: u32,
            result: Vec<f64>,
        }
        let runs: Vec<Run> = serde_json::from_str(include_str!("../../tests/fixtures/samplers.json")).unwrap();
        assert!(Sampler::NAMES.iter().all(|(_, sampler)| runs.iter().any(|run| run.method.sampler == *sampler)));
        for Run { method, steps: count, result } in runs {
            let mut x = vec![0.3f64, -1.2, 0.8, 1.9, -0.4, 0.05];
            let mut history = vec![0.0; x.len()];
            for (k, step) in steps(&method, count).iter().enumerate() {
                for (i, (x, m)) in x.iter_mut().zip(&mut history).enumerate() {
                    let eps = 0.3 * (3.0 * *x).sin() + 0.4 * *x * (1.5 * f64::from(step.r)).cos();
                    let z = 1.4 * (1.7 * k as f64 + 2.3 * i as f64 + 0.5).sin();
                    let clean = f64::from(step.clean[0]) * *x + f64::from(step.clean[1]) * eps;
                    let [a, b, h, sigma] = [step.a, step.b, step.h, step.sigma].map(f64::from);
                    (*x, *m) = (a * *x + b * eps + h * *m + sigma * z, clean);
                }
            }
            let error = |(got, want): (&f64, &f64)| (got - want).abs() / (1.0 + want.abs());
            let worst = x.iter().zip(&result).map(error).fold(0.0, f64::max);
            assert!(worst < 2e-5, "{method:?}, {count} steps: {worst}, {x:?}");
        }
    }

    /// What each factor is for the samplers of first order, in two ways that their sources give.
    #[test]
    fn samplers_that_are_the_same() {
        let of = |sampler| steps(&Method { sampler, ..Method::default() }, 12);
        let near = |a: &[Step], b: &[Step]| {
            let factors = |s: &Step| [s.a, s.b, s.h, s.sigma];
            a.iter()
                .zip(b)
                .all(|(a, b)| factors(a).iter().zip(factors(b)).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + a.abs())))
        };
        assert!(near(&of(Sampler::Ddim), &of(Sampler::Euler)));
        let (ddpm, ancestral) = (of(Sampler::Ddpm), of(Sampler::EulerAncestral));
        // All but the last, where only diffusers keeps a rest of noise.
        assert!(near(&ddpm[..11], &ancestral[..11]));
        assert!(!near(&ddpm[11..], &ancestral[11..]));
        assert!(!near(&ddpm[..11], &of(Sampler::Ddim)[..11]));
    }

    /// A network that knows the clean latents leads to them, from whichever step sampling begins with.
    #[test]
    fn sampling_may_begin_at_any_step() {
        let (clean, z) = (0.8f32, -1.3f32);
        for &(name, sampler) in Sampler::NAMES {
            let method = Method { sampler, ..Method::default() };
            for first in [0, 1, 5, 11] {
                let steps = steps_from(&method, 12, first);
                let [a, b] = steps[first].clean;
                let (mut x, mut history) = ((clean - b * z) / a, 0.0);
                for step in &steps[first..] {
                    let eps = (clean - step.clean[0] * x) / step.clean[1];
                    x = step.a * x + step.b * eps + step.h * history + step.sigma * z;
                    history = clean;
                }
                assert!((x - clean).abs() < 0.03, "{name} from step {first}: {x}");
                assert_eq!(steps[first].h, 0.0, "{name}: nothing is known of a step before");
            }
            assert_eq!([1.0, 0.5, 0.0].map(|strength| first_step(&method, 12, strength)), [0, 6, 12], "{name}");
        }
    }

    #[test]
    fn every_factor_is_finite_and_the_last_step_adds_no_noise() {
        for &(name, sampler) in Sampler::NAMES {
            for &(_, spacing) in Spacing::NAMES {
                for (shift, count) in [(1.0, 1), (2.0, 2), (0.5, 20), (1.0, 1000)] {
                    let steps = steps(&Method { sampler, spacing, shift, ..Method::default() }, count);
                    assert_eq!(steps.len(), count as usize);
                    let factors = |s: &Step| [s.a, s.b, s.h, s.sigma, s.clean[0], s.clean[1]];
                    assert!(steps.iter().flat_map(factors).all(f32::is_finite), "{name} {spacing} {shift} {count}");
                    assert_eq!((steps[0].h, steps[steps.len() - 1].sigma), (0.0, 0.0), "{name}");
                    assert!(steps.iter().all(|s| sampler.is_noisy() || s.sigma == 0.0), "{name}");
                    assert!(steps.iter().all(|s| sampler.has_history() || s.h == 0.0), "{name}");
                }
            }
        }
    }

    #[test]
    fn guidance_is_for_an_interval_of_times() {
        let steps = steps(&Method { guided: (0.25, 0.75), ..Method::default() }, 4);
        assert_eq!(steps.iter().map(|s| s.guided).collect::<Vec<_>>(), [false, true, true, true]);
    }
}
