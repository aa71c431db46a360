//! Single-precision `ln`, `sin` and `cos` with the Cephes polynomials that torch
//! uses on AVX2, including its fused multiply-adds.
//!
//! The result must equal torch's in every bit, so the operations and their order must not
//! be changed, not even to simplify them.
#![allow(clippy::excessive_precision, reason = "constants as published, so that a reader can compare them")]

use std::f32::consts::FRAC_1_SQRT_2;

/// `ln x` for a positive, finite, normal `x`.
///
/// Source: `log256_ps`, ATen/native/cpu/avx_mathfun.h.
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let exponent = (bits >> 23) as i32 - 126;
    let mantissa = f32::from_bits(bits & 0x007fffff | 0x3f000000); // [0.5, 1)
    let low = mantissa < FRAC_1_SQRT_2;
    let e = exponent as f32 - if low { 1.0 } else { 0.0 };
    let x = (mantissa - 1.0) + if low { mantissa } else { 0.0 };

    let z = x * x;
    let mut y = 7.037_683_629_2e-2f32;
    y = y.mul_add(x, -1.151_461_031_0e-1);
    y = y.mul_add(x, 1.167_699_874_0e-1);
    y = y.mul_add(x, -1.242_014_084_6e-1);
    y = y.mul_add(x, 1.424_932_278_7e-1);
    y = y.mul_add(x, -1.666_805_766_5e-1);
    y = y.mul_add(x, 2.000_071_476_5e-1);
    y = y.mul_add(x, -2.499_999_399_3e-1);
    y = y.mul_add(x, 3.333_333_117_4e-1);
    y *= x;
    y = y.mul_add(z, e * -2.121_944_40e-4);
    y = z.mul_add(-0.5, y);
    e.mul_add(0.693_359_375, x + y)
}

/// `(sin a, cos a)` for `|a| ≤ π/4`.
///
/// Source: the polynomials of `sincos256_ps`, ATen/native/cpu/avx_mathfun.h.
#[inline(always)]
pub(super) fn sin_cos_octant(a: f32) -> (f32, f32) {
    let z = a * a;
    let mut c = 2.443_315_711_809_948e-5f32;
    c = c.mul_add(z, -1.388_731_625_493_765e-3);
    c = c.mul_add(z, 4.166_664_568_298_827e-2);
    c *= z;
    c = c.mul_add(z, -(0.5 * z));
    c += 1.0;
    let mut s = -1.951_529_589_1e-4f32;
    s = s.mul_add(z, 8.332_160_873_6e-3);
    s = s.mul_add(z, -1.666_665_461_1e-1);
    s *= z;
    s = s.mul_add(a, a);
    (s, c)
}

/// `(sin θ, cos θ)` for `0 ≤ θ < 8192`, radians.
///
/// Source: `sincos256_ps`, ATen/native/cpu/avx_mathfun.h.
#[inline(always)]
pub(super) fn sin_cos(theta: f32) -> (f32, f32) {
    let j = ((theta * 1.273_239_544_735_16) as i32 + 1) & !1; // octants, rounded to even
    let q = j as f32;
    let a = q.mul_add(-0.785_156_25, theta);
    let a = q.mul_add(-2.418_756_484_985_351_562_5e-4, a);
    let a = q.mul_add(-3.774_894_977_445_941_08e-8, a);
    rotate_quarters(sin_cos_octant(a), j as u32 >> 1)
}

/// `(sin θ, cos θ)` to `(sin, cos)` of `θ + quarters·π/2`.
#[inline(always)]
pub(super) fn rotate_quarters((s, c): (f32, f32), quarters: u32) -> (f32, f32) {
    let (sin, cos) = if quarters & 1 == 0 { (s, c) } else { (c, s) };
    let sin_sign = (quarters & 2) << 30;
    let cos_sign = (quarters.wrapping_add(1) & 2) << 30;
    (f32::from_bits(sin.to_bits() ^ sin_sign), f32::from_bits(cos.to_bits() ^ cos_sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accurate() {
        for i in 1..=100_000 {
            let x = i as f32 / 100_000.0;
            assert!((f64::from(ln(x)) - f64::from(x).ln()).abs() < 1e-6, "ln {x}");
            let (s, c) = sin_cos(x * 6.3);
            let (want_s, want_c) = f64::from(x * 6.3).sin_cos();
            assert!((f64::from(s) - want_s).abs() < 2e-7 && (f64::from(c) - want_c).abs() < 2e-7, "sin, cos {x}");
        }
    }
}
