//! Dot products of rows of activations with four rows of a weight, which are read as they lie in memory: the inner loop
//! of linear layers with [few rows](super::few).
//!
//! A vector of each weight row is loaded and widened once, and multiplied with the same part of up to [`Verified::dots`]
//! rows of activations. Each product has a vector of partial sums in a register, which are added at the end, so the order
//! of summation depends on K alone. Activations are words as [`Packing`](super::tile::Packing) has them, padded with zeros.
#![allow(unsafe_code, reason = "AVX intrinsics")]

use half::{bf16, f16};

use super::{Isa, Verified};
use crate::tensor::Elements;

/// Rows of a weight that are read together.
pub(super) const WEIGHT_ROWS: usize = 4;

/// Words of which a row of activations is padded to a multiple: those of the widest vector.
pub(super) const PADDING: usize = 16;

impl Verified {
    /// Most rows of activations for which there are registers.
    pub(super) fn dots(self) -> usize {
        if self.has_avx512() { 6 } else { 2 }
    }
}

/// Products of `R` rows of `x`, `stride` words apart, with rows of a weight that have the same type and length. The
/// results are f32, or i32 in the bits of f32 where integers are multiplied.
///
/// # Panics
/// If the rows of the weight differ, or rows of `x` are shorter than those with their padding.
#[inline]
pub(super) fn dots<const R: usize>(
    cpu: Verified,
    x: &[f32],
    stride: usize,
    weight: [Elements<'_>; WEIGHT_ROWS],
) -> [[f32; WEIGHT_ROWS]; R] {
    let k = weight[0].len();
    let words = cpu.depth(k).next_multiple_of(PADDING);
    assert!(weight.iter().all(|row| row.len() == k) && words <= stride && (R - 1) * stride + words <= x.len());
    macro_rules! call {
        ($function:path, $Kind:ident) => {{
            let weight = weight.map(|row| match row {
                Elements::$Kind(row) => call!(@ $Kind row),
                _ => panic!("rows that are read together have one type"),
            });
            // SAFETY: the CPU supports the instruction set (`Verified`), and the lengths were checked above.
            unsafe { $function(x, stride, weight) }
        }};
        (@ I8 $row:ident) => { $row.values };
        (@ $Kind:ident $row:ident) => { $row };
    }
    match (cpu.isa(), weight[0]) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Elements::F32(_)) => call!(x86::avx512_f32, F32),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Elements::Bf16(_)) => call!(x86::avx512_bf16, Bf16),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Elements::F16(_)) => call!(x86::avx512_f16, F16),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Elements::F32(_)) => call!(x86::pairs_f32, F32),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Elements::Bf16(_)) => call!(x86::pairs_bf16, Bf16),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Elements::F16(_)) => call!(x86::pairs_f16, F16),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Elements::F32(_)) => call!(x86::avx2_f32, F32),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Elements::Bf16(_)) => call!(x86::avx2_bf16, Bf16),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Elements::F16(_)) => call!(x86::avx2_f16, F16),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, _) => call!(x86::avx512_vnni, I8),
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, _) => call!(x86::avx_vnni, I8),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2Int8, _) => call!(x86::avx2_int8, I8),
        (Isa::PortableInt8, _) => call!(portable_int8, I8),
        (_, Elements::F32(_)) => call!(portable_f32, F32),
        (_, Elements::Bf16(_)) => call!(portable_bf16, Bf16),
        (_, Elements::F16(_)) => call!(portable_f16, F16),
        (_, Elements::I8(_)) => panic!("weights of int8 are multiplied as integers, or widened before"),
    }
}

/// Defines [`dots`] for one instruction set and one type of weights. `$values` values of a weight row, at `p`, become a
/// vector, which is multiplied with `$words` words of a row of activations.
macro_rules! dots {
    ($name:ident $($features:literal)?: $values:literal x $E:ty, $words:literal x $V:ty, $zero:expr,
     |$p:ident| $load:expr, |$q:ident| $load_x:expr, |$sum:ident, $w:ident, $x:ident| $step:expr, $total:path) => {
        /// # Safety
        /// The CPU supports the features, rows of `weight` are equally long, and those of `x`, `stride` words apart, have
        /// as many values rounded up to whole vectors.
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name<const R: usize>(
            x: &[f32],
            stride: usize,
            weight: [&[$E]; WEIGHT_ROWS],
        ) -> [[f32; WEIGHT_ROWS]; R] {
            let k = weight[0].len();
            // What is left of the rows after whole vectors is copied now, because registers do not outlive a call of memcpy.
            let rest = k % $values;
            let mut last = [[<$E>::default(); $values]; WEIGHT_ROWS];
            last.iter_mut().zip(weight).for_each(|(last, row)| last[..rest].copy_from_slice(&row[k - rest..]));
            let mut sums = [[$zero; WEIGHT_ROWS]; R];
            let mut step = |weight: [*const $E; WEIGHT_ROWS], x: *const f32| {
                // SAFETY: the caller of the closure has `$values` values at each pointer of `weight`, and at `x`, and each
                // multiple of `stride` after it, `$words` words.
                unsafe {
                    let [w0, w1, w2, w3] = weight;
                    let weight = [dots!(@ $p w0 $load), dots!(@ $p w1 $load), dots!(@ $p w2 $load), dots!(@ $p w3 $load)];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let $q = x.add(r * stride);
                        let $x = $load_x;
                        for ($sum, $w) in sums.iter_mut().zip(weight) {
                            *$sum = $step;
                        }
                    }
                }
            };
            let [w0, w1, w2, w3] = weight.map(<[$E]>::as_ptr);
            for i in 0..k / $values {
                let at = [w0, w1, w2, w3].map(|row| row.wrapping_add(i * $values));
                // The next four rows, as far along K.
                at.iter().for_each(|row| prefetch(row.wrapping_add(WEIGHT_ROWS * k)));
                step(at, x.as_ptr().wrapping_add(i * $words));
            }
            if rest > 0 {
                step(last.each_ref().map(|row| row.as_ptr()), x.as_ptr().wrapping_add(k / $values * $words));
            }
            let mut totals = [[0.0; WEIGHT_ROWS]; R];
            totals.iter_mut().zip(sums).for_each(|(to, sums)| *to = $total(sums));
            totals
        }
    };
    // A vector of a row at a pointer of another name.
    (@ $p:ident $row:ident $load:expr) => {{
        let $p = $row;
        $load
    }};
}

/// Prefetches to L2: the next four rows are further away than L1 is large.
#[inline(always)]
fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch does not access memory in a way that can fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
}

/// Lanes of the vectors of portable kernels.
const LANES: usize = 8;

/// What [`portable_f32`] and the like share: eight lanes of f32.
fn fma(sum: [f32; LANES], w: [f32; LANES], x: [f32; LANES]) -> [f32; LANES] {
    const FMA: bool = cfg!(target_arch = "aarch64");
    std::array::from_fn(|i| super::math::fma::<FMA>(w[i], x[i], sum[i]))
}

fn total(sums: [[f32; LANES]; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
    sums.map(|sum| sum.iter().sum())
}

dots!(portable_f32: 8 x f32, 8 x [f32; LANES], [0.0; LANES], |p| *p.cast::<[f32; LANES]>(), |q| *q.cast(),
    |sum, w, x| fma(*sum, w, x), total);
dots!(portable_bf16: 8 x bf16, 8 x [f32; LANES], [0.0; LANES], |p| (*p.cast::<[bf16; LANES]>()).map(bf16::to_f32),
    |q| *q.cast(), |sum, w, x| fma(*sum, w, x), total);
dots!(portable_f16: 8 x f16, 8 x [f32; LANES], [0.0; LANES], |p| (*p.cast::<[f16; LANES]>()).map(f16::to_f32),
    |q| *q.cast(), |sum, w, x| fma(*sum, w, x), total);
dots!(portable_int8: 16 x i8, 8 x [i32; LANES], [0; LANES], |p| *p.cast::<[[i8; 2]; LANES]>(), |q| *q.cast::<[[i16; 2]; LANES]>(),
    |sum, w, x| std::array::from_fn(|i| {
        sum[i] + i32::from(w[i][0]) * i32::from(x[i][0]) + i32::from(w[i][1]) * i32::from(x[i][1])
    }),
    total_i32);

fn total_i32(sums: [[i32; LANES]; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
    sums.map(|sum| f32::from_bits(sum.iter().sum::<i32>() as u32))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{WEIGHT_ROWS, prefetch};

    dots!(avx2_f32 "avx2,fma": 8 x f32, 8 x __m256, _mm256_setzero_ps(), |p| _mm256_loadu_ps(p), |q| _mm256_loadu_ps(q),
        |sum, w, x| _mm256_fmadd_ps(w, x, *sum), total);
    // A bf16 is the upper half of an f32.
    dots!(avx2_bf16 "avx2,fma": 8 x bf16, 8 x __m256, _mm256_setzero_ps(),
        |p| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))),
        |q| _mm256_loadu_ps(q), |sum, w, x| _mm256_fmadd_ps(w, x, *sum), total);
    dots!(avx2_f16 "avx2,fma,f16c": 8 x f16, 8 x __m256, _mm256_setzero_ps(),
        |p| _mm256_cvtph_ps(_mm_loadu_si128(p.cast())), |q| _mm256_loadu_ps(q),
        |sum, w, x| _mm256_fmadd_ps(w, x, *sum), total);

    dots!(avx512_f32 "avx512f,avx2": 16 x f32, 16 x __m512, _mm512_setzero_ps(), |p| _mm512_loadu_ps(p),
        |q| _mm512_loadu_ps(q), |sum, w, x| _mm512_fmadd_ps(w, x, *sum), total_512);
    dots!(avx512_bf16 "avx512f,avx2": 16 x bf16, 16 x __m512, _mm512_setzero_ps(),
        |p| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))),
        |q| _mm512_loadu_ps(q), |sum, w, x| _mm512_fmadd_ps(w, x, *sum), total_512);
    dots!(avx512_f16 "avx512f,avx2": 16 x f16, 16 x __m512, _mm512_setzero_ps(),
        |p| _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())), |q| _mm512_loadu_ps(q),
        |sum, w, x| _mm512_fmadd_ps(w, x, *sum), total_512);

    dots!(pairs_f32 "avx512f,avx512bf16,avx2": 32 x f32, 16 x __m512, _mm512_setzero_ps(),
        |p| _mm512_cvtne2ps_pbh(_mm512_loadu_ps(p.add(16)), _mm512_loadu_ps(p)), |q| load_pairs(q.cast()),
        |sum, w, x| _mm512_dpbf16_ps(*sum, w, x), total_512);
    dots!(pairs_bf16 "avx512f,avx512bf16,avx2": 32 x bf16, 16 x __m512, _mm512_setzero_ps(), |p| load_pairs(p.cast()),
        |q| load_pairs(q.cast()), |sum, w, x| _mm512_dpbf16_ps(*sum, w, x), total_512);
    dots!(pairs_f16 "avx512f,avx512bf16,avx2": 32 x f16, 16 x __m512, _mm512_setzero_ps(),
        |p| _mm512_cvtne2ps_pbh(
            _mm512_cvtph_ps(_mm256_loadu_si256(p.add(16).cast())), _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))),
        |q| load_pairs(q.cast()), |sum, w, x| _mm512_dpbf16_ps(*sum, w, x), total_512);

    // VNNI takes one factor as unsigned: the weight plus 128, which flips its highest bit.
    dots!(avx512_vnni "avx512f,avx512vnni,avx2": 64 x i8, 16 x __m512i, _mm512_setzero_si512(),
        |p| _mm512_xor_si512(_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(i8::MIN)), |q| _mm512_loadu_si512(q.cast()),
        |sum, w, x| _mm512_dpbusd_epi32(*sum, w, x), total_512_i32);
    dots!(avx_vnni "avx2,avxvnni": 32 x i8, 8 x __m256i, _mm256_setzero_si256(),
        |p| _mm256_xor_si256(_mm256_loadu_si256(p.cast()), _mm256_set1_epi8(i8::MIN)), |q| _mm256_loadu_si256(q.cast()),
        |sum, w, x| _mm256_dpbusd_avx_epi32(*sum, w, x), total_i32);
    dots!(avx2_int8 "avx2": 16 x i8, 8 x __m256i, _mm256_setzero_si256(),
        |p| _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())), |q| _mm256_loadu_si256(q.cast()),
        |sum, w, x| _mm256_add_epi32(*sum, _mm256_madd_epi16(w, x)), total_i32);

    /// 32 bf16.
    ///
    /// # Safety
    /// There are as many at `from`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn load_pairs(from: *const f32) -> __m512bh {
        // SAFETY: the caller's; both types are 512 bits wide, and any bits are valid in either.
        unsafe { std::mem::transmute(_mm512_loadu_ps(from)) }
    }

    /// The sum of the lanes of each vector.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(sums: [__m256; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
        let pairs = _mm256_hadd_ps(_mm256_hadd_ps(sums[0], sums[1]), _mm256_hadd_ps(sums[2], sums[3]));
        let total = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
        // SAFETY: both are 128 bits wide.
        unsafe { std::mem::transmute(total) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn total_i32(sums: [__m256i; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        let total = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        // SAFETY: both are 128 bits wide.
        unsafe { std::mem::transmute(total) }
    }

    /// Lanes of four vectors are added crosswise, not by `hadd`, which cannot name registers 16 to 31: sums would have to
    /// be in the others throughout.
    #[inline]
    #[target_feature(enable = "avx512f,avx2")]
    fn total_512(sums: [__m512; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
        let add = |a, b| _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        let (a, b) = (add(sums[0], sums[1]), add(sums[2], sums[3]));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        let all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
        let half = _mm256_add_ps(
            _mm512_castps512_ps256(all),
            _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(all))),
        );
        let total = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
        // SAFETY: both are 128 bits wide.
        unsafe { std::mem::transmute(total) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx2")]
    fn total_512_i32(sums: [__m512i; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
        let add = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (a, b) = (add(sums[0], sums[1]), add(sums[2], sums[3]));
        let all = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
        let total = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
        // SAFETY: both are 128 bits wide.
        unsafe { std::mem::transmute(total) }
    }
}
