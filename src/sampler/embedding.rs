//! Timestep features: what the network is told of time.

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
