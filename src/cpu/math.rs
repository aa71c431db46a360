//! Scalar functions without branches, calls or tables, so that the compiler
//! vectorises loops over them.

/// `a·b + c`, fused if the instruction set has fused multiply-add. Without it,
/// `mul_add` would be a slow library call.
#[inline(always)]
pub(super) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The larger of two numbers. It compiles to a single instruction because, unlike
/// `f32::max`, it returns `b` if either is NaN.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two numbers, with the same rule for NaN as [`max`].
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// A polynomial by Horner's rule. The first coefficient belongs to the highest power.
#[inline(always)]
fn polynomial<const FMA: bool, const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[0];
    for &c in &c[1..] {
        sum = fma::<FMA>(sum, x, c);
    }
    sum
}

/// 1.5·2^23: adding it to a small number rounds that number to an integer, which is then in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `e^x`; 0 below −87 and about 2^127 from 88 on. Relative error below 1.3e-7.
///
/// Writes `x = n·ln 2 + r` with `|r| <= ln 2 / 2` and computes `e^r` with Cephes' polynomial.
/// Source: S. Moshier, Cephes, `expf.c`.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    let small = x < -87.0;
    let x = min(max(x, -87.0), 88.0);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, 2.121_944_4e-4, fma::<FMA>(n, -0.693_359_4, x));
    const P: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
    let e = fma::<FMA>(polynomial::<FMA, 6>(r, P), r * r, r + 1.0);
    // Multiplies by 2^n.
    let scaled = f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23));
    if small { 0.0 } else { scaled }
}

/// `2^x` for `x <= 0`; 0 below −127. Relative error below 1.3e-7 from −126 on. NaN stays NaN.
///
/// Source: S. Moshier, Cephes, `exp2f.c`.
#[inline(always)]
pub(super) fn exp2<const FMA: bool>(x: f32) -> f32 {
    let x = max(-127.0, x);
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    use std::f32::consts::LN_2;
    const P: [f32; 7] = [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, LN_2, 1.0];
    f32::from_bits(polynomial::<FMA, 7>(r, P).to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The error function; absolute error below 4.5e-7.
///
/// A rational approximation on [−4, 4], constant outside of it.
/// Source: Eigen, `generic_fast_erf_float`, as used by XLA.
#[inline(always)]
pub(super) fn erf<const FMA: bool>(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329_3e-3, -1.426_473_9e-2];
    let x = min(max(x, -4.0), 4.0);
    let square = x * x;
    x * polynomial::<FMA, 7>(square, P) / polynomial::<FMA, 5>(square, Q)
}

/// `x·Φ(x)`, the exact GELU.
#[inline(always)]
pub(super) fn gelu<const FMA: bool>(x: f32) -> f32 {
    let half = 0.5 * x;
    fma::<FMA>(half, erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// `x / (1 + e^(−b·x))`: SiLU with `b = 1`, CLIP's "quick GELU" with `b = 1.702`.
#[inline(always)]
pub(super) fn swish<const FMA: bool>(x: f32, b: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-b * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest `error(x)` at 2 million points of [−range, range].
    fn worst(range: f64, error: impl Fn(f32) -> f64) -> f64 {
        (-1_000_000..=1_000_000).map(|i| error((i as f64 * range / 1e6) as f32)).fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_accurate() {
        let relative = |y: f32, x: f32| (f64::from(y) / f64::from(x).exp() - 1.0).abs();
        let fused = worst(86.9, |x| relative(exp::<true>(x), x));
        let plain = worst(86.9, |x| relative(exp::<false>(x), x));
        assert!(fused < 1.3e-7 && plain < 1.3e-7, "{fused:e} {plain:e}");
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(0.0), 1.0);
    }

    #[test]
    fn exp2_is_accurate() {
        let relative = |y: f32, x: f32| (f64::from(y) / f64::from(x).exp2() - 1.0).abs();
        let fused = worst(126.0, |x| relative(exp2::<true>(-x.abs()), -x.abs()));
        let plain = worst(126.0, |x| relative(exp2::<false>(-x.abs()), -x.abs()));
        assert!(fused < 1.3e-7 && plain < 1.3e-7, "{fused:e} {plain:e}");
        assert_eq!(exp2::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2::<true>(0.0), 1.0);
        assert!(exp2::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_accurate() {
        let error = |y: f32, x: f32| (f64::from(y) - libm::erf(f64::from(x))).abs();
        let fused = worst(6.0, |x| error(erf::<true>(x), x));
        let plain = worst(6.0, |x| error(erf::<false>(x), x));
        assert!(fused < 4.5e-7 && plain < 4.5e-7, "{fused:e} {plain:e}");
    }

    #[test]
    fn activations_are_accurate() {
        let sigmoid = |x: f64| x / (1.0 + (-x).exp());
        let phi = |x: f64| 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
        let silu =
            worst(20.0, |x| (f64::from(swish::<true>(x, 1.0)) - sigmoid(x.into())).abs() / x.abs().max(1.0) as f64);
        let gelu = worst(20.0, |x| (f64::from(gelu::<true>(x)) - phi(x.into())).abs() / x.abs().max(1.0) as f64);
        assert!(silu < 1e-6 && gelu < 3e-7, "{silu:e} {gelu:e}");
    }
}
