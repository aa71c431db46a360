//! Transposes what [`pack`](super::pack) has staged, words of 32 bits whatever they hold.
#![allow(unsafe_code, reason = "AVX-512 intrinsics")]

use super::Verified;

/// `to[p, i] = from[i, p]` for all of `to [_, width]` and `from [_, stride]`. With AVX-512, `stride` must be a
/// multiple of 16.
#[inline]
pub(super) fn transpose(cpu: Verified, from: &[f32], stride: usize, width: usize, to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if cpu.has_avx512() {
        // SAFETY: the CPU supports AVX-512 (`Verified`).
        return unsafe { x86::transpose(from, stride, width, to) };
    }
    for (p, to) in to.chunks_exact_mut(width).enumerate() {
        for (to, from) in to.iter_mut().zip(from.chunks_exact(stride)) {
            *to = from[p];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(from: &[f32; 16]) -> __m512 {
        // SAFETY: `from` has 16 elements.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    /// [`super::transpose`], 16 × 16 values at a time.
    #[target_feature(enable = "avx512f")]
    pub(super) fn transpose(from: &[f32], stride: usize, width: usize, to: &mut [f32]) {
        let depth = to.len() / width;
        assert!(stride.is_multiple_of(16) && depth <= stride);
        for first in (0..width).step_by(16) {
            let count = 16.min(width - first);
            let lanes = ((1u32 << count) - 1) as __mmask16;
            for p in (0..depth).step_by(16) {
                let mut block = [_mm512_setzero_ps(); 16];
                for (to, from) in block.iter_mut().zip(from[first * stride..].chunks_exact(stride)) {
                    *to = load(&from.as_chunks().0[p / 16]);
                }
                let block = transposed(block);
                for (row, to) in block.iter().zip(to[p * width..].chunks_exact_mut(width)) {
                    let to = &mut to[first..first + count];
                    // SAFETY: the mask has `count` bits, and `to` as many elements.
                    unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), lanes, *row) };
                }
            }
        }
    }

    /// Transposes 16 × 16 values in registers: by single values, by pairs, then by 128-bit lanes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transposed(r: [__m512; 16]) -> [__m512; 16] {
        let zero = _mm512_setzero_ps();
        let (mut s, mut t) = ([zero; 16], [zero; 16]);
        for i in 0..8 {
            s[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            s[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        // t[4i + j] now holds column j (of each 128-bit lane) of rows 4i..4i + 4.
        for i in 0..4 {
            for j in 0..2 {
                let (a, b) = (_mm512_castps_pd(s[4 * i + j]), _mm512_castps_pd(s[4 * i + j + 2]));
                t[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                t[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        for j in 0..4 {
            let (a, b) = (t[j], t[4 + j]);
            let (c, d) = (t[8 + j], t[12 + j]);
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            s[j] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
            s[4 + j] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
            s[8 + j] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
            s[12 + j] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
        }
        s
    }
}
