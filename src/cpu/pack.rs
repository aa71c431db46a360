//! Packs GEMM operands into the panels that [`tile`](super::tile) reads.
//!
//! A panel holds `width` rows of an operand (as many as a tile has rows for the left
//! operand, columns for the right one), transposed so that K is the outer dimension:
//! `[depth, width]`. Missing rows are zeros. For an instruction set that multiplies narrower values than f32, packing
//! also rounds or widens them, and puts those that follow each other along K into one [word](Packing).
#![allow(unsafe_code, reason = "AVX-512 intrinsics")]

use std::ops::Range;

use super::rows::{RowAt, Rows, prefetch};
use super::tile::{MAX_COLS, MAX_ROWS, Packing};
use super::transpose::transpose;
use super::{Isa, Verified, per_isa};

/// Words of each row that are staged at a time: 16 KiB for the widest panel, which fits in L1.
const STEP: usize = 128;

/// A buffer of [`STEP`] words of each row of a panel, before they are transposed.
#[repr(align(64))]
struct Staging([[f32; STEP]; MAX_COLS]);

per_isa! {
    /// Packs columns `k..k + len` of `rows[first..end]`, at most `width` rows,
    /// into `panel [depth(len), width]`.
    pub(super) fn pack[R: Rows](cpu, rows: &R, first: usize, end: usize, width: usize, k: usize, len: usize,
        panel: &mut [f32]) {
        assert!(end - first <= width && width <= MAX_COLS && panel.len() == cpu.depth(len) * width);
        let mut staging = Staging([[0.0; STEP]; MAX_COLS]);
        let mut panel = panel;
        let step = step(cpu);
        for at in (0..len).step_by(step) {
            let count = step.min(len - at);
            for (row, to) in (first..end).zip(&mut staging.0) {
                rows.prefetch(row, k + at + step, step);
                stage(cpu, rows, row, k + at, count, to);
            }
            let (head, tail) = panel.split_at_mut(cpu.depth(count) * width);
            transpose(cpu, staging.0.as_flattened(), STEP, width, head);
            panel = tail;
        }
    }
}

per_isa! {
    /// Puts the first `len` values of a row into words, followed by zeros.
    pub(super) fn pack_row[R: Rows](cpu, rows: &R, row: usize, len: usize, to: &mut [f32]) {
        let mut staging = [0.0; STEP];
        let mut to = to;
        for at in (0..len).step_by(step(cpu)) {
            let count = step(cpu).min(len - at);
            stage(cpu, rows, row, at, count, &mut staging);
            let (head, tail) = to.split_at_mut(cpu.depth(count));
            head.copy_from_slice(&staging[..head.len()]);
            to = tail;
        }
        to.fill(0.0);
    }
}

/// Values of a row that are staged at a time. They are staged before they are rounded, so there is room for as many as
/// for words.
#[inline(always)]
fn step(cpu: Verified) -> usize {
    match cpu.packing() {
        Packing::F32 | Packing::Bf16 => STEP,
        integers => STEP * integers.values(),
    }
}

/// Puts `row[k..k + count]`, at most [`step`] values, into words, the last of which ends with zeros.
#[inline(always)]
fn stage<R: Rows>(cpu: Verified, rows: &R, row: usize, k: usize, count: usize, to: &mut [f32; STEP]) {
    match cpu.packing() {
        Packing::Int8 => quads(rows.int8(row, k, count), if R::IS_WEIGHT { SIGN } else { 0 }, to),
        Packing::Int16 => pairs(rows.int8(row, k, count), to),
        Packing::Bf16 if rows.read_pairs(row, k, count, &mut to[..count.div_ceil(2)]) => {}
        packing => {
            if count == STEP {
                // The common case has a length that is known at compile time.
                rows.read(row, k, to);
            } else {
                rows.read(row, k, &mut to[..count]);
                to[count..].fill(0.0);
            }
            if packing == Packing::Bf16 {
                pair(cpu, to);
            }
        }
    }
}

/// The bit that adds 128 to an integer of 8 bits, modulo 256.
const SIGN: i8 = i8::MIN;

/// Puts four integers into each word, with the bits of `flip` flipped. The last word ends with zeros.
#[inline(always)]
fn quads(from: &[i8], flip: i8, to: &mut [f32; STEP]) {
    let to = &mut bytemuck::cast_slice_mut::<f32, i8>(to)[..from.len().next_multiple_of(4)];
    to[from.len()..].fill(0);
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ flip);
}

/// Puts two integers into each word. The last word ends with zero.
#[inline(always)]
fn pairs(from: &[i8], to: &mut [f32; STEP]) {
    let to = &mut bytemuck::cast_slice_mut::<f32, i16>(to)[..from.len().next_multiple_of(2)];
    to[from.len()..].fill(0);
    to.iter_mut().zip(from).for_each(|(to, from)| *to = i16::from(*from));
}

per_isa! {
    /// Packs the transpose of the matrix `rows[range]`, which is `[count, len]`, into `panels [len / height]`, each
    /// `[depth(count), height]`. A row of the matrix needs no transposition: `height` of its values go to each panel.
    /// Past `len`, the last panel keeps its old contents, which only affect accumulators that are never read.
    pub(super) fn pack_columns[R: RowAt](cpu, rows: &R, range: Range<usize>, len: usize, height: usize,
        panels: &mut [f32]) {
        match height {
            12 => columns::<R, 12>(cpu, rows, range, len, panels),
            _ => columns::<R, 6>(cpu, rows, range, len, panels),
        }
    }
}

/// [`pack_columns`] for a height that is known at compile time.
#[inline(always)]
fn columns<R: RowAt, const HEIGHT: usize>(
    cpu: Verified,
    rows: &R,
    range: Range<usize>,
    len: usize,
    panels: &mut [f32],
) {
    let panel = cpu.depth(range.len());
    let panels = panels.as_chunks_mut::<HEIGHT>().0;
    let pairs = cpu.isa() == Isa::Avx512Bf16;
    for (j, row) in range.clone().step_by(if pairs { 2 } else { 1 }).enumerate() {
        (row + AHEAD..range.end).take(2).for_each(|row| prefetch(rows.row(row)));
        let values = rows.row(row);
        let next = (row + 1 < range.end).then(|| rows.row(row + 1));
        for first in (0..len).step_by(STAGED) {
            let count = STAGED.min(len - first);
            let mut staged = [0.0; STAGED];
            let low = &values[first..first + count];
            match next {
                _ if !pairs => staged[..count].copy_from_slice(low),
                Some(next) => round_pairs(low, &next[first..first + count], &mut staged[..count]),
                None => round_pairs(low, &[0.0; STAGED][..count], &mut staged[..count]),
            }
            let to = panels.chunks_exact_mut(panel).skip(first / HEIGHT);
            to.zip(staged.as_chunks::<HEIGHT>().0).for_each(|(to, staged)| to[j] = *staged);
        }
    }
}

/// How many rows ahead [`columns`] prefetches: rows may be on different pages, which the hardware prefetcher does
/// not follow.
const AHEAD: usize = 16;

/// Values of a row that [`columns`] stages at a time, a multiple of every panel's height.
const STAGED: usize = 8 * MAX_ROWS;

per_isa! {
    /// Rounds `rows [count, width]` to bf16 in place and interleaves rows `2j` and `2j + 1` as pairs.
    fn pair_rows_in_place(cpu, rows: &mut [f32], width: usize) {
        for j in 0..(rows.len() / width).div_ceil(2) {
            let mut low = [0.0; MAX_COLS];
            let mut high = [0.0; MAX_COLS];
            low[..width].copy_from_slice(&rows[2 * j * width..][..width]);
            if let Some(row) = rows[(2 * j + 1) * width..].get(..width) {
                high[..width].copy_from_slice(row);
            }
            round_pairs(&low[..width], &high[..width], &mut rows[j * width..][..width]);
        }
    }
}

/// Calls [`pair_rows_in_place`] if the instruction set multiplies bf16 pairs. Returns
/// the result, `[depth(count), width]`.
pub(super) fn pair_rows(cpu: Verified, rows: &mut [f32], width: usize) -> &[f32] {
    let count = rows.len() / width;
    if cpu.isa() == Isa::Avx512Bf16 {
        pair_rows_in_place(cpu, rows, width);
    }
    &rows[..cpu.depth(count) * width]
}

/// Rounds `low` and `high` to bf16 (nearest, ties to even) and stores them as pairs. NaN is not handled.
#[inline(always)]
pub(super) fn round_pairs(low: &[f32], high: &[f32], to: &mut [f32]) {
    let round = |x: f32| {
        let bits = x.to_bits();
        bits.wrapping_add(0x7fff + (bits >> 16 & 1))
    };
    for (to, (&low, &high)) in to.iter_mut().zip(low.iter().zip(high)) {
        *to = f32::from_bits(round(low) >> 16 | round(high) & 0xffff_0000);
    }
}

/// Rounds 128 values to bf16 in place; the first 64 elements then hold the pairs.
#[inline]
fn pair(cpu: Verified, row: &mut [f32; STEP]) {
    assert_eq!(cpu.isa(), Isa::Avx512Bf16);
    // SAFETY: a `Verified` instruction set is supported by the CPU, and it has BF16, as asserted.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        x86::pair(row);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::STEP;

    /// [`super::pair`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn pair(row: &mut [f32; STEP]) {
        let blocks = row.as_chunks_mut().0;
        for j in 0..blocks.len() / 2 {
            let (low, high) = (load(&blocks[2 * j]), load(&blocks[2 * j + 1]));
            // SAFETY: both types have 512 bits, and every pattern of bits is a value of either.
            let pairs: __m512 = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) };
            // SAFETY: a block has 16 elements.
            unsafe { _mm512_storeu_ps(blocks[j].as_mut_ptr(), pairs) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(from: &[f32; 16]) -> __m512 {
        // SAFETY: `from` has 16 elements.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
}
