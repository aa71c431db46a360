//! The GEMM micro-kernels: a tile of accumulators in registers.
//!
//! `c[i, j] += Σ_p a[p, i]·b[p, j]` for packed panels `a [depth, rows]` and `b [depth, cols]`
//! ([`pack`](super::pack)), which are read sequentially. An element of a panel is a word of 32 bits: a value of f32, or
//! several narrower ones that follow each other along K, see [`Packing`]. `depth` counts words. Sums of integers are i32
//! in the bits of f32.
//!
//! | instruction set | rows × cols | accumulators |
//! |---|---|---|
//! | AVX-512 (BF16, VNNI)  | 12 × 32 | 24 of 32 registers |
//! | AVX2, AVX-VNNI        | 6 × 16  | 12 of 16 |
//! | portable              | 6 × 8   | 12 of 16 (SSE2), of 32 (NEON) |
#![allow(unsafe_code, reason = "AVX intrinsics")]

use super::{Isa, Verified};

/// Rows of the tallest tile of any instruction set.
pub(super) const MAX_ROWS: usize = 12;
/// Columns of the widest tile of any instruction set.
pub(super) const MAX_COLS: usize = 32;

/// What a word of a packed panel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// A value.
    F32,
    /// Two values, rounded to bf16.
    Bf16,
    /// Two integers of 8 bits as i16. Their products are added in pairs to i32, which cannot overflow, while the
    /// instructions before VNNI that multiply 8 bits add pairs to i16, which can.
    Int16,
    /// Four integers of 8 bits. Those of `b` are unsigned: weights plus 128.
    Int8,
}

impl Packing {
    /// Values in a word.
    pub(super) fn values(self) -> usize {
        match self {
            Packing::F32 => 1,
            Packing::Bf16 | Packing::Int16 => 2,
            Packing::Int8 => 4,
        }
    }
}

impl Verified {
    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        if self.has_avx512() { MAX_ROWS } else { 6 }
    }

    /// Columns of a tile.
    pub(super) fn cols(self) -> usize {
        match self.isa() {
            Isa::Portable | Isa::PortableInt8 => 8,
            Isa::Avx2 | Isa::Avx2Int8 | Isa::AvxVnni => 16,
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Avx512Vnni => MAX_COLS,
        }
    }

    /// What a word of a panel holds.
    pub(super) fn packing(self) -> Packing {
        match self.isa() {
            Isa::Portable | Isa::Avx2 | Isa::Avx512 => Packing::F32,
            Isa::Avx512Bf16 => Packing::Bf16,
            Isa::PortableInt8 | Isa::Avx2Int8 => Packing::Int16,
            Isa::AvxVnni | Isa::Avx512Vnni => Packing::Int8,
        }
    }

    /// How many words hold `k` values along K.
    pub(super) fn depth(self, k: usize) -> usize {
        k.div_ceil(self.packing().values())
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
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { x86::avx512_vnni(depth, a, b, c, accumulate) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86::avx_vnni(depth, a, b, c, accumulate) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Int8 => unsafe { x86::avx2_int8(depth, a, b, c, accumulate) },
        Isa::PortableInt8 => portable_int8(a, b, c, accumulate),
        _ => portable(a, b, c, accumulate),
    }
}

fn portable_int8(a: &[f32], b: &[f32], c: &mut [f32], accumulate: bool) {
    let (a, b): (&[[i16; 2]], &[[i16; 2]]) = (bytemuck::cast_slice(a), bytemuck::cast_slice(b));
    let (c, _) = bytemuck::cast_slice_mut::<f32, i32>(c).as_chunks_mut::<8>();
    let mut sum = [[0; 8]; 6];
    if accumulate {
        sum.copy_from_slice(c);
    }
    for (a, b) in a.as_chunks::<6>().0.iter().zip(b.as_chunks::<8>().0) {
        for (sum, a) in sum.iter_mut().zip(a.map(|a| a.map(i32::from))) {
            for (sum, b) in sum.iter_mut().zip(b) {
                *sum += a[0] * i32::from(b[0]) + a[1] * i32::from(b[1]);
            }
        }
    }
    c.copy_from_slice(&sum);
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

    tile!(avx512_vnni, "avx512f,avx512vnni", 12 x 2 x 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps,
        |a, b, sum| _mm512_castsi512_ps(_mm512_dpbusd_epi32(
            _mm512_castps_si512(*sum), _mm512_castps_si512(b), _mm512_castps_si512(_mm512_set1_ps(a)))));

    tile!(avx_vnni, "avx2,fma,avxvnni", 6 x 2 x 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        |a, b, sum| _mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(
            _mm256_castps_si256(*sum), _mm256_castps_si256(b), _mm256_castps_si256(_mm256_set1_ps(a)))));

    tile!(avx2_int8, "avx2,fma", 6 x 2 x 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        |a, b, sum| _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(*sum),
            _mm256_madd_epi16(_mm256_castps_si256(b), _mm256_castps_si256(_mm256_set1_ps(a))))));

    /// Reinterprets the bits as 32 bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs(x: __m512) -> __m512bh {
        // SAFETY: both are 512 bits wide and any bits are valid in either.
        unsafe { std::mem::transmute(x) }
    }
}
