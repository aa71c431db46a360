//! Helpers for the kernels' unit tests.

use std::sync::Arc;

use half::{bf16, f16};

use super::Isa;
pub(super) use crate::tensor::Dtype;
use crate::tensor::{Bytes, Part, Weight};

/// `len` reproducible values, uniform in [−1, 1).
pub(super) fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..8).for_each(|_| {
        next();
    });
    (0..len).map(|_| next()).collect()
}

struct Raw(Vec<u64>);

impl Bytes for Raw {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A random weight stored as `dtype`.
pub(super) fn weight(dims: &[usize], dtype: Dtype, seed: u64) -> Weight {
    let values = random(dims.iter().product(), seed);
    if dtype == Dtype::I8 {
        return Weight::from_f32("test", dims, values).to_int8();
    }
    let bytes: Vec<u8> = match dtype {
        Dtype::F32 => bytemuck::cast_slice(&values).to_vec(),
        Dtype::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::I8 => unreachable!("int8 weights are made together with their scales"),
    };
    let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()].copy_from_slice(&bytes);
    Weight::new("test", dims.to_vec(), vec![Part::new(Arc::new(Raw(aligned)), 0..bytes.len(), dtype)])
}

/// The instruction sets that this CPU supports.
pub(super) fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// The rounding that `isa` applies to the inputs of a GEMM.
pub(super) fn rounding(isa: Isa) -> fn(f32) -> f32 {
    if isa == Isa::Avx512Bf16 { |x| bf16::from_f32(x).to_f32() } else { |x| x }
}

/// Calls `run(threads)` with 1 and with 2 threads. The results must agree in every bit.
pub(super) fn on_threads(run: impl Fn(usize) -> Vec<f32> + Sync) -> Vec<f32> {
    let [one, two] = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool");
        pool.install(|| run(threads))
    });
    assert!(one.iter().zip(&two).all(|(a, b)| a.to_bits() == b.to_bits()), "1 and 2 threads differ");
    one
}

/// Panics unless `|got − expected| <= tolerance·max(1, |expected|)` throughout.
pub(super) fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len());
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs() / expected.abs().max(1.0);
        assert!(error <= tolerance, "{what}: [{i}] is {got}, expected {expected}, error {error:e} > {tolerance:e}");
    }
}
