//! The CPU generator of PyTorch, reproduced bit for bit.
//!
//! The reference is torch on x86 with AVX2 or AVX-512. Without these, torch uses `ln`, `sin`
//! and `cos` of the C library, and its normals differ by up to 2e-6.

use std::f64::consts::TAU;

use half::bf16;

use super::Mt19937;
use super::simd::box_muller;

/// Uniforms per block of the Box-Muller transform: eight for radii, eight for angles.
pub(super) const BLOCK: usize = 16;

/// `torch.Generator("cpu").manual_seed(seed)`.
///
/// Every call continues where the one before stopped. For the same seed, f32 and bf16 draws
/// are unrelated numbers: one is not the other rounded.
///
/// Source: `normal_fill`, ATen/native/cpu/DistributionTemplates.h.
///
/// ```
/// use cascade_rt::noise::TorchGenerator;
/// let mut z = [0.0; 32];
/// TorchGenerator::new(42).normal_f32(&mut z);
/// assert_eq!(z[..3], [1.9269153, 1.4872841, 0.9007172]);
/// ```
#[derive(Debug, Clone)]
pub struct TorchGenerator {
    engine: Mt19937,
    /// The second normal of the last scalar pair, if unused. Draws of 16 or more values neither use nor clear it.
    spare: Option<f64>,
}

impl TorchGenerator {
    /// A generator seeded with the low 32 bits of `seed`, as torch does.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt19937::new(seed as u32), spare: None }
    }

    /// `torch.randn(z.len(), dtype=torch.float32)`.
    pub fn normal_f32(&mut self, z: &mut [f32]) {
        if z.len() < BLOCK {
            return z.fill_with(|| self.scalar() as f32);
        }
        let uniform = |bits: u32| (bits & 0xffffff) as f32 * (1.0 / 16_777_216.0);
        z.fill_with(|| uniform(self.engine.next_u32()));
        box_muller(z);
        if let Some(tail) = tail(z) {
            tail.fill_with(|| uniform(self.engine.next_u32()));
            box_muller(tail);
        }
    }

    /// `torch.randn(z.len(), dtype=torch.bfloat16)`, converted to f32.
    ///
    /// The distribution is coarse: the uniforms have only 8 bits, so `|z| ≤ 3.33` and about 2,700
    /// different values occur.
    pub fn normal_bf16(&mut self, z: &mut [f32]) {
        if z.len() < BLOCK {
            return z.fill_with(|| round(f64::from(self.scalar() as f32)));
        }
        let table = Bf16Table::new();
        let mut fill = |z: &mut [f32]| {
            let (blocks, rest) = z.as_chunks_mut();
            blocks.iter_mut().for_each(|block| table.fill(block, &mut self.engine));
            rest.fill_with(|| self.engine.next_u32() as f32); // torch draws and then overwrites these
        };
        fill(z);
        if let Some(tail) = tail(z) {
            fill(tail);
        }
    }

    /// One normal in f64, from 53-bit uniforms. Two are computed at a time; the second is kept for the next call.
    fn scalar(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let mut uniform = || (self.engine.next_u64() & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64;
        let angle = TAU * uniform();
        let radius = (-2.0 * libm::log1p(-uniform())).sqrt();
        self.spare = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }
}

/// The last 16 values, which torch draws again if the length is not a multiple of 16.
fn tail(z: &mut [f32]) -> Option<&mut [f32]> {
    let n = z.len();
    (!n.is_multiple_of(BLOCK)).then(|| &mut z[n - BLOCK..])
}

/// The three functions of the Box-Muller transform at all 256 bf16 uniforms, with torch's intermediate rounding.
struct Bf16Table {
    radius: [f32; 256],
    cos: [f32; 256],
    sin: [f32; 256],
}

impl Bf16Table {
    fn new() -> Self {
        let (mut radius, mut cos, mut sin) = ([0.0; 256], [0.0; 256], [0.0; 256]);
        for k in 0..256 {
            let u = k as f64 / 256.0;
            let ln = f64::from(round(libm::log(1.0 - u)));
            radius[k] = round(f64::from(round(-2.0 * ln)).sqrt());
            let theta = f64::from(round(TAU * u));
            (cos[k], sin[k]) = (round(libm::cos(theta)), round(libm::sin(theta)));
        }
        Self { radius, cos, sin }
    }

    fn fill(&self, block: &mut [f32; BLOCK], engine: &mut Mt19937) {
        let u = [(); BLOCK].map(|()| (engine.next_u32() & 0xff) as usize);
        for j in 0..BLOCK / 2 {
            let (radius, angle) = (self.radius[u[j]], u[j + BLOCK / 2]);
            // torch adds the mean, 0, which turns -0 into 0.
            block[j] = round(f64::from(radius * self.cos[angle])) + 0.0;
            block[j + BLOCK / 2] = round(f64::from(radius * self.sin[angle])) + 0.0;
        }
    }
}

/// Rounds to bf16 (nearest, ties to even).
fn round(x: f64) -> f32 {
    bf16::from_f64(x).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(seed: u64, n: usize) -> Vec<f32> {
        let mut z = vec![0.0; n];
        TorchGenerator::new(seed).normal_f32(&mut z);
        z
    }

    fn bf16s(seed: u64, n: usize) -> Vec<f32> {
        let mut z = vec![0.0; n];
        TorchGenerator::new(seed).normal_bf16(&mut z);
        z
    }

    #[test]
    fn first_values() {
        let z = f32s(0, 32);
        assert_eq!(z[..4], [-1.1258398, -1.1523602, -0.25057858, -0.4338788]);
        assert_eq!([z[8], z[9], z[31]], [0.32227492, -1.2633348, -0.84367675]);
        assert_eq!(f32s(42 | 7 << 32, 64)[..4], [1.9269153, 1.4872841, 0.9007172, -2.105521]);
        let z = bf16s(0, 32);
        assert_eq!(z[..4], [1.4609375, 0.29101563, 0.9609375, 1.5703125]);
        assert_eq!([z[8], z[9], z[31]], [0.32617188, -0.56640625, -0.69921875]);
        assert_eq!(bf16s(42, 32)[..4], [-0.80859375, -1.53125, 0.40625, 0.171875]);
    }

    /// The sums of the bit patterns of `torch.randn(100_003)` with seed 7, from torch 2.11.
    #[test]
    fn every_bit() {
        let bits = |z: Vec<f32>| z.iter().map(|z| u64::from(z.to_bits())).sum::<u64>();
        assert_eq!(bits(f32s(7, 100_003)), 213_111_761_558_215);
        assert_eq!(bits(bf16s(7, 100_003)), 211_032_288_264_192);
    }

    /// 20 is not a multiple of 16, so the last 16 values are drawn again.
    #[test]
    fn tail() {
        let z = f32s(0, 20);
        assert_eq!([z[0], z[4], z[8], z[19]], [-1.1258398, 0.59883946, 0.4680964, 0.053736903]);
    }

    #[test]
    fn few() {
        assert_eq!(f32s(0, 3), [1.5409961, -0.2934289, -2.1787894]);
        let mut generator = TorchGenerator::new(0);
        let mut z = [0.0; 3];
        z.iter_mut().for_each(|z| generator.normal_f32(std::slice::from_mut(z)));
        assert_eq!(z.to_vec(), f32s(0, 3), "the second normal of a pair is kept for the next call");
    }
}
