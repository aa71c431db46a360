//! Philox4x32-10: a counter-based generator, so that any device can compute the noise of any element independently.

use super::polynomial::{ln, rotate_quarters, sin_cos_octant};

/// Counter-based generator whose key is the 64-bit seed of one image.
///
/// One evaluation produces four random words, which make the normals of four consecutive
/// elements. The counter of element `i` (row-major `[h, w, c]`) in draw `d` (0 for the start
/// latents, `1 + step` for the noise of a step) of stream `s` (0 for Stage C, 1 for Stage B) is
/// `[i / 4, d, s, 0]`.
///
/// The Box-Muller transform in f32 turns words 0 and 1 into the first two normals and words 2
/// and 3 into the other two. With `k₀, k₁` the top 24 bits of the two words,
///
/// ```text
/// radius = sqrt(−2 · ln((k₀ + 1) · 2⁻²⁴))
/// q      = (k₁ + 2²¹) >> 22                          nearest multiple of π/2, 0 to 4
/// a      = f32(k₁ − q·2²²) · (2π / 2²⁴)              |a| ≤ π/4
/// z      = radius · cos(a + q·π/2),  radius · sin(a + q·π/2)
/// ```
///
/// Because the range reduction is done in integers, `sin` and `cos` are only evaluated for small
/// angles, where those of a GPU are within 1e-6; for large angles they are not. `|z| ≤ 5.77`.
///
/// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
///
/// ```
/// use cascade_rt::noise::Philox;
/// let z = Philox::new(42).normals([0, 0, 0, 0]);
/// let want = [-0.9701897, 0.19401903, -1.2356201, 1.9239271];
/// assert!(z.iter().zip(want).all(|(z, want)| (z - want).abs() < 1e-6), "{z:?}");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The generator for `seed`, whose low half is the key's first word.
    pub fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32] }
    }

    /// The four random words at `counter`.
    pub fn words(&self, counter: [u32; 4]) -> [u32; 4] {
        let ([mut x0, mut x1, mut x2, mut x3], [mut k0, mut k1]) = (counter, self.key);
        for _ in 0..10 {
            let a = u64::from(x0) * 0xd251_1f53;
            let b = u64::from(x2) * 0xcd9e_8d57;
            (x0, x1, x2, x3) = ((b >> 32) as u32 ^ x1 ^ k0, b as u32, (a >> 32) as u32 ^ x3 ^ k1, a as u32);
            k0 = k0.wrapping_add(0x9e37_79b9);
            k1 = k1.wrapping_add(0xbb67_ae85);
        }
        [x0, x1, x2, x3]
    }

    /// The four normals at `counter`.
    pub fn normals(&self, counter: [u32; 4]) -> [f32; 4] {
        let [a, b, c, d] = self.words(counter);
        let ([z0, z1], [z2, z3]) = (box_muller(a, b), box_muller(c, d));
        [z0, z1, z2, z3]
    }

    /// All normals of one draw of one stream.
    pub fn fill(&self, stream: u32, draw: u32, z: &mut [f32]) {
        for (i, four) in z.chunks_mut(4).enumerate() {
            four.copy_from_slice(&self.normals([i as u32, draw, stream, 0])[..four.len()]);
        }
    }
}

/// Turns two random words into two normals.
#[inline]
fn box_muller(radius: u32, angle: u32) -> [f32; 2] {
    const UNIT: f32 = 1.0 / 16_777_216.0;
    let radius = (-2.0 * ln(((radius >> 8) + 1) as f32 * UNIT)).sqrt();
    let k = angle >> 8;
    let quarters = (k + (1 << 21)) >> 22;
    let a = (k as i32 - (quarters << 22) as i32) as f32 * (std::f32::consts::TAU * UNIT);
    let (sin, cos) = rotate_quarters(sin_cos_octant(a), quarters);
    [radius * cos, radius * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer tests of Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        let words = |key: [u32; 2], counter| Philox { key }.words(counter);
        assert_eq!(words([0; 2], [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(words([!0; 2], [!0; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            words([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn normals_match_f64() {
        for i in 0..10_000 {
            let philox = Philox::new(0x0123_4567_89ab_cdef);
            let [a, b, ..] = philox.words([i, 1, 2, 3]).map(|w| f64::from(w >> 8) / 16_777_216.0);
            let radius = (-2.0 * (a + 1.0 / 16_777_216.0).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * b).sin_cos();
            let [z0, z1, ..] = philox.normals([i, 1, 2, 3]).map(f64::from);
            assert!((z0 - radius * cos).abs() < 1e-6 && (z1 - radius * sin).abs() < 1e-6, "{i}");
        }
    }

    /// Radius zero, the largest radius, and the angles at which `q` changes.
    #[test]
    fn extremes() {
        assert_eq!(box_muller(!0, 0).map(f32::abs), [0.0, 0.0]);
        assert!((box_muller(0, 0)[0] - 5.768_108).abs() < 1e-5);
        for (angle, want) in [(1 << 30, [0.0, 1.0]), (1 << 31, [-1.0, 0.0]), (3 << 30, [0.0, -1.0]), (!0, [1.0, 0.0])] {
            let z = box_muller(0, angle).map(|z| z / 5.768_108);
            assert!(z.iter().zip(want).all(|(z, want)| (z - want).abs() < 1e-6), "{angle:x}: {z:?}");
        }
    }

    #[test]
    fn moments() {
        let mut z = vec![0.0; 1 << 18];
        Philox::new(7).fill(0, 0, &mut z);
        let n = z.len() as f64;
        let mean = z.iter().map(|&z| f64::from(z)).sum::<f64>() / n;
        let variance = z.iter().map(|&z| (f64::from(z) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
    }
}
