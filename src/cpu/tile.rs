//! The GEMM micro-kernels: a tile of accumulators in registers.
//!
//! `c[i, j] += Σ_p a[p, i]·b[p, j]` for packed panels `a [depth, rows]` and
//! `b [depth, cols]` ([`pack`](super::pack)), which are read sequentially. With
//! [`Isa::Avx512Bf16`], an element of `a` or `b` is a pair of bf16 in the bits of
//! an f32, and `depth` counts pairs.
//!
//! | instruction set | rows × cols | accumulators |
//! |---|---|---|
//! | AVX-512 (BF16)  | 12 × 32 | 24 of 32 registers |
//! | AVX2            | 6 × 16  | 12 of 16 |
//! | portable        | 6 × 8   | 12 of 16 (SSE2), of 32 (NEON) |
#![allow(unsafe_code, reason = "AVX intrinsics")]

use super::{Isa, Verified};

/// Rows of the tallest tile of any instruction set.
pub(super) const MAX_ROWS: usize = 12;
/// Columns of the widest tile of any instruction set.
pub(super) const MAX_COLS: usize = 32;

impl Verified {
    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self.isa() {
            Isa::Portable | Isa::Avx2 => 6,
            Isa::Avx512 | Isa::Avx512Bf16 => MAX_ROWS,
        }
    }

    /// Columns of a tile.
    pub(super) fn cols(self) -> usize {
        match self.isa() {
            Isa::Portable => 8,
            Isa::Avx2 => 16,
            Isa::Avx512 | Isa::Avx512Bf16 => MAX_COLS,
        }
    }

    /// How many packed elements hold `k` values along K: half as many if values are paired.
    pub(super) fn depth(self, k: usize) -> usize {
        if self.isa() == Isa::Avx512Bf16 { k.div_ceil(2) } else { k }
    }
}

/// `c = aᵀ·b`, or with `accumulate` `c += aᵀ·b`, for `a [depth, rows]`, `b [depth, cols]` and `c [rows, cols]`.
#[inline]
pub(super) fn tile(cpu: Verified, a: &[f32], b: &[f32], c: &mut [f32], accumulate: bool) {
    let depth = a.len() / cpu.rows();
    assert!(a.len() == depth * cpu.rows() && b.len() == depth * cpu.cols() && c.len() == cpu.rows() * cpu.cols());
    match cpu.isa() {
        // SAFETY: the CPU supports the instruction set (`Verified`), and the lengths were checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { x86::avx512_bf16(depth, a, b, c, accumulate) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::avx512(depth, a, b, c, accumulate) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::avx2(depth, a, b, c, accumulate) },
        _ => portable(a, b, c, accumulate),
    }
}

fn portable(a: &[f32], b: &[f32], c: &mut [f32], accumulate: bool) {
    const FMA: bool = cfg!(target_arch = "aarch64");
    let (c, _) = c.as_chunks_mut::<8>();
    let mut sum = [[0.0; 8]; 6];
    if accumulate {
        sum.copy_from_slice(c);
    }
    for (a, b) in a.as_chunks::<6>().0.iter().zip(b.as_chunks::<8>().0) {
        for (sum, &a) in sum.iter_mut().zip(a) {
            for (sum, &b) in sum.iter_mut().zip(b) {
                *sum = super::math::fma::<FMA>(a, b, *sum);
            }
        }
    }
    c.copy_from_slice(&sum);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// How many steps along K ahead `a` is prefetched, because it is read from L3. Past the end of this panel,
    /// the prefetch reaches the next one, which follows in memory.
    const AHEAD: usize = 32;

    /// Defines a micro-kernel for a tile of `$rows` rows of `$n` vectors of `$lanes` f32.
    macro_rules! tile {
        ($name:ident, $features:literal, $rows:literal x $n:literal x $lanes:literal,
         $zero:ident, $load:ident, $store:ident, |$a:ident, $b:ident, $sum:ident| $step:expr) => {
            /// # Safety
            /// The CPU supports the features, and `a`, `b` and `c` hold `depth·rows`, `depth·cols` and `rows·cols`
            /// elements.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(depth: usize, a: &[f32], b: &[f32], c: &mut [f32], accumulate: bool) {
                const COLS: usize = $n * $lanes;
                let mut sum = [[$zero(); $n]; $rows];
                if accumulate {
                    for (i, row) in sum.iter_mut().enumerate() {
                        for (j, sum) in row.iter_mut().enumerate() {
                            // SAFETY: i < rows and j·lanes < cols, within `c`.
                            *sum = unsafe { $load(c.as_ptr().add(i * COLS + j * $lanes)) };
                        }
                    }
                }
                let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
                for _ in 0..depth {
                    // SAFETY: `depth` steps of `rows` and `cols` elements lie within `a` and `b`;
                    // a prefetch cannot fault.
                    unsafe {
                        _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(AHEAD * $rows).cast());
                        let mut bs = [$zero(); $n];
                        for (j, b_j) in bs.iter_mut().enumerate() {
                            *b_j = $load(b.add(j * $lanes));
                        }
                        for (i, row) in sum.iter_mut().enumerate() {
                            let $a = *a.add(i);
                            for ($sum, &$b) in row.iter_mut().zip(&bs) {
                                *$sum = $step;
                            }
                        }
                        a = a.add($rows);
                        b = b.add(COLS);
                    }
                }
                for (i, row) in sum.iter().enumerate() {
                    for (j, &sum) in row.iter().enumerate() {
                        // SAFETY: i < rows and j·lanes < cols, within `c`.
                        unsafe { $store(c.as_mut_ptr().add(i * COLS + j * $lanes), sum) };
                    }
                }
            }
        };
    }

    tile!(avx2, "avx2,fma", 6 x 2 x 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        |a, b, sum| _mm256_fmadd_ps(_mm256_set1_ps(a), b, *sum));

    tile!(avx512, "avx512f", 12 x 2 x 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps,
        |a, b, sum| _mm512_fmadd_ps(_mm512_set1_ps(a), b, *sum));

    tile!(avx512_bf16, "avx512f,avx512bw,avx512bf16", 12 x 2 x 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps,
        |a, b, sum| _mm512_dpbf16_ps(*sum, pairs(_mm512_set1_ps(a)), pairs(b)));

    /// Reinterprets the bits as 32 bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs(x: __m512) -> __m512bh {
        // SAFETY: both are 512 bits wide and any bits are valid in either.
        unsafe { std::mem::transmute(x) }
    }
}
