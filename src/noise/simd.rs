//! Box-Muller over blocks of 16 values, compiled twice: for the build target, and for AVX2 with FMA.
//!
//! Both versions perform the same operations and give the same bits. In the first, every fused
//! multiply-add is a call to the C library, which makes it ten times slower.

use super::polynomial::{ln, sin_cos};
use super::torch::BLOCK;

/// Turns each whole block of 16 uniforms in `[0, 1)` into 16 normals: eight
/// from cosines, then eight from sines. A remainder of fewer than 16 values is left unchanged.
#[allow(unsafe_code, reason = "calls a function compiled for CPU features that the build target lacks")]
pub(super) fn box_muller(z: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the function only requires the two CPU features that were just detected.
        return unsafe { box_muller_avx2(z) };
    }
    blocks(z);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn box_muller_avx2(z: &mut [f32]) {
    blocks(z);
}

#[inline(always)]
fn blocks(z: &mut [f32]) {
    for block in z.as_chunks_mut::<BLOCK>().0 {
        let (radii, angles) = block.split_at_mut(BLOCK / 2);
        for (a, b) in radii.iter_mut().zip(angles) {
            let radius = (-2.0 * ln(1.0 - *a)).sqrt();
            let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
            // torch adds the mean, 0, which turns -0 into 0.
            *a = radius * cos + 0.0;
            *b = radius * sin + 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_give_the_same_bits() {
        let mut a: Vec<f32> = (0..4096u32).map(|i| (i.wrapping_mul(2654435761) >> 8) as f32 / 16_777_216.0).collect();
        let mut b = a.clone();
        box_muller(&mut a);
        blocks(&mut b);
        assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
