//! When a network is evaluated: the cosine schedule, and the noise levels of the steps of a run.

use std::f64::consts::FRAC_PI_2;

use super::{Method, Sampler, Spacing};

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

/// The least and the largest log-SNR that the original sampler works with.
const LOG_SNR: (f64, f64) = (-9.21024, 9.21007);

/// A noise level at which the network is evaluated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    /// Diffusion time on the grid, `[0, 1]`; the interval of guidance refers to it.
    pub t: f32,
    /// Diffusion time that the network is told, `[0, 1]`. It differs from `t` where the schedule is shifted.
    pub r: f32,
    /// Share of the image in the latents' variance, `a² = 1 − b²` in `x = a·x₀ + b·ε`.
    pub share: f64,
}

impl Level {
    /// The level of grid time `t`, exactly as diffusers has it.
    fn of_time(t: f32) -> Self {
        Self { t, r: t, share: alpha_bar(t.into()) }
    }

    /// The level of grid time `t` on a schedule shifted by `shift`, as in the original sampler.
    fn shifted(t: f32, shift: f64) -> Self {
        let share = alpha_bar(t.into());
        Self::of_log_snr(t, (share / (1.0 - share)).ln(), shift)
    }

    /// The level whose log-SNR is `log_snr` before it is shifted.
    fn of_log_snr(t: f32, log_snr: f64, shift: f64) -> Self {
        let log_snr = (log_snr - 2.0 * shift.ln()).clamp(LOG_SNR.0, LOG_SNR.1);
        let share = 1.0 / (1.0 + (-log_snr).exp());
        Self { t, r: time_of(share) as f32, share }
    }
}

/// The diffusion time of a signal share, `[0, 1]`: the inverse of the cosine schedule.
fn time_of(share: f64) -> f64 {
    let first = (S / (1.0 + S) * FRAC_PI_2).cos().powi(2);
    ((share * first).sqrt().acos() / FRAC_PI_2 * (1.0 + S) - S).clamp(0.0, 1.0)
}

/// The `steps + 1` levels of a run, from noise to image. No steps give no levels.
pub(super) fn levels(method: &Method, steps: u32) -> Vec<Level> {
    let shift = f64::from(method.shift);
    let level = |t: f32| match method.sampler {
        // The original sampler clamps its log-SNR also where it is not shifted.
        Sampler::Gdf => Level::shifted(t, shift),
        _ if method.shift == 1.0 => Level::of_time(t),
        _ => Level::shifted(t, shift),
    };
    let sigma = |t: f64| ((1.0 - alpha_bar(t)) / alpha_bar(t)).sqrt();
    let (most, least) = (sigma(1.0), sigma(0.0));
    let share = |i: u32| f64::from(i) / f64::from(steps.saturating_sub(1).max(1));
    let spaced = |sigma: &dyn Fn(f64) -> f64| {
        let of = |i: u32| {
            let log_snr = -2.0 * sigma(share(i)).ln();
            let t = time_of(1.0 / (1.0 + (-log_snr).exp())) as f32;
            Level::of_log_snr(t, log_snr, shift)
        };
        (0..steps).map(of).chain((steps > 0).then(|| level(0.0))).collect()
    };
    if !method.times.is_empty() {
        return method.times.iter().copied().chain([0.0]).map(level).collect();
    }
    match method.spacing {
        Spacing::Linear => timesteps(steps).into_iter().map(level).collect(),
        Spacing::Karras => spaced(&|share| {
            let (most, least) = (most.powf(1.0 / 7.0), least.powf(1.0 / 7.0));
            (most + share * (least - most)).powi(7)
        }),
        Spacing::Exponential => spaced(&|share| (most.ln() + share * (least / most).ln()).exp()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_linear_schedule_is_that_of_diffusers() {
        for (t, want) in timesteps(20).into_iter().zip(SHARES) {
            assert!((alpha_bar(t.into()) - f64::from(want)).abs() < 2e-7, "{t}");
        }
        assert_eq!(timesteps(3), [1.0, 1.0 - 1.0 / 3.0f32, 1.0 / 3.0, 0.0]);
        assert!(timesteps(0).is_empty() && levels(&Method::default(), 0).is_empty());
        for steps in [1, 2, 7, 1000] {
            let times = timesteps(steps);
            assert!(times.is_sorted_by(|a, b| a > b) && times.len() == steps as usize + 1);
        }
    }

    /// The times that the original repository tells its networks: Stage C with shift 2, Stage B with 1.
    #[test]
    fn shifted_times_are_those_of_the_original() {
        let times = |shift, steps| {
            let method = Method { sampler: Sampler::Gdf, shift, ..Method::default() };
            levels(&method, steps).iter().map(|level| level.r).collect::<Vec<_>>()
        };
        let stage_c = [
            0.99358, 0.97496, 0.94969, 0.92396, 0.89751, 0.87007, 0.84134, 0.81096, 0.77854, 0.74362, 0.70564, 0.66397,
            0.61786, 0.56646, 0.50886, 0.44414, 0.37152, 0.29064, 0.20181, 0.10627, 0.00712,
        ];
        let stage_b = [0.99358, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1];
        assert!(
            times(2.0, 20).iter().zip(stage_c).all(|(got, want)| (got - want).abs() < 6e-6),
            "{:?}",
            times(2.0, 20)
        );
        assert!(
            times(1.0, 10).iter().zip(stage_b).all(|(got, want)| (got - want).abs() < 6e-6),
            "{:?}",
            times(1.0, 10)
        );
    }

    #[test]
    fn every_spacing_descends_from_noise_to_image() {
        for spacing in [Spacing::Linear, Spacing::Karras, Spacing::Exponential] {
            for (shift, steps) in [(1.0, 1), (1.0, 20), (2.0, 7), (0.5, 1000)] {
                let method = Method { spacing, shift, ..Method::default() };
                let levels = levels(&method, steps);
                assert_eq!(levels.len(), steps as usize + 1);
                assert!(levels.is_sorted_by(|a, b| a.share <= b.share && a.r >= b.r), "{spacing:?} {shift} {steps}");
                assert!(levels.iter().all(|l| l.share > 0.0 && l.share < 1.0 && (0.0..=1.0).contains(&l.r)));
            }
        }
        let given = Method { times: vec![1.0, 0.25], ..Method::default() };
        assert_eq!(levels(&given, 2).iter().map(|level| level.r).collect::<Vec<_>>(), [1.0, 0.25, 0.0]);
    }
}
