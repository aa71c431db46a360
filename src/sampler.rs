//! The sampler on the host: schedule, step coefficients and timestep features.
//! The update itself is the op `denoise`, on the device.

use std::f64::consts::FRAC_PI_2;

/// Offset of the cosine schedule, in units of diffusion time: keeps the noise of its last steps from vanishing.
pub const S: f64 = 0.008;

/// Signal share `ᾱ(t)` of the cosine schedule: how much of the latent's
/// variance is image rather than noise.
///
/// `t` is diffusion time, 0 (clean) to 1 (pure noise), unitless; values
/// outside are clamped. The result lies in `[1e-4, 0.9999]`.
///
/// f64, because the step coefficients divide by `1 − ᾱ`, which is steep at both ends.
///
/// Source: `_alpha_cumprod`, scheduling_ddpm_wuerstchen.py in diffusers, `s = 0.008`.
///
/// ```
/// use cascade_rt::sampler::alpha_bar;
/// assert_eq!(alpha_bar(0.0), 0.9999);
/// assert!(alpha_bar(0.2) > alpha_bar(0.8));
/// assert_eq!(alpha_bar(1.0), 1e-4);
/// ```
pub fn alpha_bar(t: f64) -> f64 {
    let angle = |t: f64| (t + S) / (1.0 + S) * FRAC_PI_2;
    let share = (angle(t.clamp(0.0, 1.0)).cos() / angle(0.0).cos()).powi(2);
    share.clamp(1e-4, 0.9999)
}

/// The `steps + 1` diffusion times of a run, from 1 down to 0, in f32.
///
/// Each half is counted from its own end, as torch's `linspace` does. No steps
/// give no times.
///
/// Source: `set_timesteps`, scheduling_ddpm_wuerstchen.py in diffusers.
pub fn timesteps(steps: u32) -> Vec<f32> {
    if steps == 0 {
        return Vec::new();
    }
    let delta = -1.0 / steps as f32;
    let half = steps.div_ceil(2);
    let time = |i| if i < half { 1.0 + i as f32 * delta } else { 0.0 - (steps - i) as f32 * delta };
    (0..=steps).map(time).collect()
}

/// One sampling step: `x' = c0 · (x − c1 · ε) + sigma · z`, with the network's
/// prediction `ε` at time `r` and standard normal `z`. All factors are unitless.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Diffusion time that the network is told, `(0, 1]`.
    pub r: f32,
    /// `sqrt(1 / α)` with `α = ᾱ(t) / ᾱ(t')`, at least 1.
    pub c0: f32,
    /// `(1 − α) / sqrt(1 − ᾱ(t))`.
    pub c1: f32,
    /// `sqrt((1 − α)(1 − ᾱ(t')) / (1 − ᾱ(t)))`; 0 in the last step.
    pub sigma: f32,
}

/// The steps of a DDPM run, first to last.
///
/// Source: `DDPMWuerstchenScheduler.step` in diffusers, with `scaler = 1`.
///
/// ```
/// let steps = cascade_rt::sampler::ddpm(20);
/// assert_eq!((steps.len(), steps[0].r, steps[19].sigma), (20, 1.0, 0.0));
/// ```
pub fn ddpm(steps: u32) -> Vec<Step> {
    let times = timesteps(steps);
    let pairs = times.iter().zip(times.iter().skip(1));
    let step = |(&t, &next): (&f32, &f32)| {
        let (share, next_share) = (alpha_bar(t.into()), alpha_bar(next.into()));
        let alpha = share / next_share;
        let sigma = ((1.0 - alpha) * (1.0 - next_share) / (1.0 - share)).sqrt();
        Step {
            r: t,
            c0: (1.0 / alpha).sqrt() as f32,
            c1: ((1.0 - alpha) / (1.0 - share).sqrt()) as f32,
            sigma: if next == 0.0 { 0.0 } else { sigma as f32 },
        }
    };
    pairs.map(step).collect()
}

/// Sinusoidal features `[dim]` of a time or condition `r`, usually 0 to 1:
/// sines, then cosines, then one zero if `dim` is odd.
///
/// Arguments reach 10⁴ radians, where one ulp of a frequency moves a feature by
/// 6e-4; so the arguments are formed in f32 exactly as torch does.
///
/// Source: `get_timestep_ratio_embedding`, unet_stable_cascade.py in diffusers.
///
/// ```
/// use cascade_rt::sampler::timestep_embedding;
/// assert_eq!(timestep_embedding(0.0, 4), [0.0, 0.0, 1.0, 1.0]);
/// ```
pub fn timestep_embedding(r: f32, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let scaled = r * 10_000.0;
    let argument = |i| f64::from(scaled * frequency(i, half));
    let sines = (0..half).map(|i| libm::sin(argument(i)) as f32);
    let cosines = (0..half).map(|i| libm::cos(argument(i)) as f32);
    sines.chain(cosines).chain((dim % 2 == 1).then_some(0.0)).collect()
}

/// Frequency `i` of `half`: `10000^(−i / (half − 1))`, in f32.
fn frequency(i: usize, half: usize) -> f32 {
    if half == 32 {
        return f32::from_bits(FREQUENCIES_32[i]);
    }
    let rate = -(10_000f64.ln() / half.saturating_sub(1).max(1) as f64) as f32;
    libm::exp(f64::from(i as f32 * rate)) as f32
}

/// torch's own `exp` for 64 features: bits of f32, some an ulp off the true value.
#[rustfmt::skip]
const FREQUENCIES_32: [u32; 32] = [
    0x3f800000, 0x3f3e32e3, 0x3f0d4f93, 0x3ed1fa4b, 0x3e9c0180, 0x3e67d040, 0x3e2c3aa3, 0x3dffeb81,
    0x3dbe23a9, 0x3d8d4443, 0x3d51e97d, 0x3d1bf503, 0x3ce7bdb1, 0x3cac2cda, 0x3c7fd703, 0x3c3e1470,
    0x3c0d38f4, 0x3bd1d8af, 0x3b9be888, 0x3b67ab26, 0x3b2c1f14, 0x3affc287, 0x3abe0537, 0x3a8d2da5,
    0x3a51c7e1, 0x3a1bdc0d, 0x39e7989a, 0x39ac1146, 0x397fae0d, 0x393df601, 0x390d2257, 0x38d1b716,
];

#[cfg(test)]
mod tests {
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

    #[test]
    fn schedule() {
        for (t, want) in timesteps(20).into_iter().zip(SHARES) {
            assert!((alpha_bar(t.into()) - f64::from(want)).abs() < 2e-7, "{t}");
        }
        assert_eq!(timesteps(3), [1.0, 1.0 - 1.0 / 3.0f32, 1.0 / 3.0, 0.0]);
        assert!(timesteps(0).is_empty() && ddpm(0).is_empty());
        for steps in [1, 2, 7, 1000] {
            let (times, plan) = (timesteps(steps), ddpm(steps));
            assert!(times.is_sorted_by(|a, b| a > b) && times.len() == plan.len() + 1);
            assert!(plan.iter().all(|s| s.c0.is_finite() && s.c1.is_finite() && s.sigma.is_finite()), "{steps}");
        }
    }

    /// 20 steps of `ε = x / 2` in f32, against diffusers.
    #[test]
    fn golden_loop_in_f32() {
        let mut generator = TorchGenerator::new(0);
        let (mut x, mut z) = (vec![0.0; LATENTS], vec![0.0; LATENTS]);
        generator.normal_f32(&mut x);
        for step in ddpm(20) {
            generator.normal_f32(&mut z);
            for (x, z) in x.iter_mut().zip(&z) {
                *x = step.c0 * (*x - step.c1 * (0.5 * *x)) + step.sigma * z;
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

    #[test]
    fn embedding() {
        let e = timestep_embedding(0.75, 64);
        assert_eq!((e[0], e[32]), (7500f64.sin() as f32, 7500f64.cos() as f32));
        assert_eq!(timestep_embedding(0.0, 64), [[0.0; 32], [1.0; 32]].concat());
        assert_eq!(timestep_embedding(0.5, 7).len(), 7);
        assert_eq!(timestep_embedding(0.5, 7)[6], 0.0);
        assert_eq!((timestep_embedding(0.5, 1), timestep_embedding(0.5, 0)), (vec![0.0], vec![]));
        assert!(timestep_embedding(0.5, 2).iter().all(|x| x.is_finite()));
        // The general formula is within an ulp of the table.
        let rate = -(10_000f64.ln() / 31.0) as f32;
        for (i, bits) in FREQUENCIES_32.into_iter().enumerate() {
            assert!((libm::exp(f64::from(i as f32 * rate)) as f32).to_bits().abs_diff(bits) <= 1, "{i}");
        }
    }
}
