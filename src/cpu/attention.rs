//! `attention`: `out = softmax(q·kᵀ / √d)·v` for each head, by the FlashAttention algorithm.
//!
//! Both GEMMs are computed transposed, so that the columns of a tile are queries:
//!
//! ```text
//! scores [keys, queries] = k [keys, d] · qᵀ [d, queries]         k packed as the left operand
//! out    [d, queries]    = vᵀ [d, keys] · scores [keys, queries] vᵀ packed as the left operand
//! ```
//!
//! In this orientation the softmax reduces along columns, so that every SIMD lane
//! handles its own query, and the scores are already in the layout of the second
//! GEMM's right operand: nothing is repacked between the two. A task computes one
//! head of one image for a range of queries. Its packed keys and values fit in L2
//! (0.5 MB for 1,028 keys of 64 values). The task processes blocks of `KEYS` keys,
//! whose scores fit in L1. When a block contains a larger score than all blocks
//! before it, the accumulated sums are rescaled (online softmax).
//!
//! Source: Dao et al., FlashAttention, <https://arxiv.org/abs/2205.14135>.
#![allow(unsafe_code, reason = "tasks write disjoint ranges of one output")]

use super::pack::{pack, pack_columns};
use super::rows::{RowAt, Rows};
use super::scratch::{LINE, Scratch, Shared, lines, run_tasks};
use super::softmax::{Softmax, exponentiate, scale_columns};
use super::tile::{MAX_COLS, MAX_ROWS, tile};
use super::transpose::transpose;
use super::{Isa, Verified};

/// Keys and values of one source (the image itself, or the context). Row `r` of image `i`
/// starts at element `(i·rows + r)·stride` and holds all heads.
#[derive(Debug, Clone, Copy)]
pub struct KeyValue<'a> {
    /// Keys, from the first element of the first row.
    pub k: &'a [f32],
    /// Values, likewise.
    pub v: &'a [f32],
    /// Distance between rows in elements, of both keys and values.
    pub stride: usize,
    /// Rows per image.
    pub rows: usize,
}

/// Operands of [`attention`].
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Batch size: images, or prompts in the text encoder.
    pub images: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of one head, `d`.
    pub head_dim: usize,
    /// Queries, laid out as [`KeyValue::k`].
    pub q: &'a [f32],
    /// Distance between queries in elements.
    pub q_stride: usize,
    /// Queries per image.
    pub q_rows: usize,
    /// Keys and values of the image's own tokens, for self-attention.
    pub own: Option<KeyValue<'a>>,
    /// Keys and values of the context, numbered after the image's own.
    pub context: Option<KeyValue<'a>>,
    /// Query `i` attends only to own keys `0..=i`.
    pub causal: bool,
    /// `[images]`: how many keys the queries of each image attend to, at least 1.
    pub key_len: Option<&'a [u32]>,
}

impl Attention<'_> {
    /// Keys per image.
    fn keys(&self) -> usize {
        [self.own, self.context].into_iter().flatten().map(|source| source.rows).sum()
    }
}

/// Keys per block: few enough that their scores stay in L1 from the first GEMM to the second. An even number
/// (bf16 values are paired), and a multiple of every tile's rows.
const KEYS: usize = 16 * MAX_ROWS;

/// Scratch of the largest task in f32: packed keys and values; and for a tile's width of queries, the packed queries,
/// the scores of one block of keys, the accumulators `[d, queries]`, and their transpose.
fn task_scratch(keys: usize, d: usize) -> usize {
    let (keys_up, d_up) = (keys.next_multiple_of(MAX_ROWS), d.next_multiple_of(MAX_ROWS));
    let columns = lines(MAX_COLS * d) + lines(MAX_COLS * KEYS) + lines(MAX_COLS * d_up) + lines(MAX_COLS * d);
    lines(keys_up * d) + lines(d_up * keys) + columns
}

/// f32 of scratch that [`attention`] needs to keep `threads` threads busy.
pub fn attention_scratch(keys: usize, head_dim: usize, threads: usize) -> usize {
    LINE + threads * task_scratch(keys, head_dim)
}

/// Computes `out [images·q_rows, heads·head_dim]`.
///
/// Numerics: scores, softmax and accumulators in f32. With [`Isa::Avx512Bf16`], q/√d,
/// k, v and the unnormalised weights `e^(s − max)` are rounded to bf16 as GEMM inputs;
/// the softmax denominator sums the weights before rounding.
pub fn attention(isa: Isa, op: &Attention<'_>, out: &mut [f32], scratch: &mut [f32]) {
    let cpu = isa.verify();
    assert_eq!(out.len(), op.images * op.q_rows * op.heads * op.head_dim);
    let len = task_scratch(op.keys(), op.head_dim);
    let (memory, threads) = Scratch::new(scratch).per_thread(len);

    // If there are too few heads to balance the load over the threads, divide the queries of a head, too.
    let blocks = op.q_rows.div_ceil(cpu.cols());
    let heads = op.images * op.heads;
    let blocks_per_task = blocks.div_ceil((4 * threads).div_ceil(heads)).max(1);
    let tasks_per_head = blocks.div_ceil(blocks_per_task);
    let out = Shared::new(out);
    run_tasks(memory, len, heads * tasks_per_head, |task, memory| {
        let (head, part) = (task / tasks_per_head, task % tasks_per_head);
        let rows = part * blocks_per_task * cpu.cols()..op.q_rows.min((part + 1) * blocks_per_task * cpu.cols());
        Head { cpu, op, image: head / op.heads, at: head % op.heads * op.head_dim }.run(rows, &out, memory);
    });
}

/// One head of one image. Its channels start at index `at` of each row.
struct Head<'a> {
    cpu: Verified,
    op: &'a Attention<'a>,
    image: usize,
    at: usize,
}

/// The queries of a head, scaled by 1/√d.
struct Queries<'a> {
    head: &'a Head<'a>,
    scale: f32,
}

impl Rows for Queries<'_> {
    #[inline(always)]
    fn read(&self, row: usize, k: usize, dst: &mut [f32]) {
        let op = self.head.op;
        let from = &op.q[(self.head.image * op.q_rows + row) * op.q_stride + self.head.at + k..];
        dst.iter_mut().zip(from).for_each(|(to, from)| *to = from * self.scale);
    }
}

/// The keys of a head, or its values: the image's own, then the context's.
struct Keys<'a> {
    head: &'a Head<'a>,
    values: bool,
}

impl RowAt for Keys<'_> {
    /// The head's `d` channels of key (or value) number `row`.
    #[inline(always)]
    fn row(&self, mut row: usize) -> &[f32] {
        let op = self.head.op;
        for source in [op.own, op.context].into_iter().flatten() {
            if row < source.rows {
                let from = if self.values { source.v } else { source.k };
                return &from[(self.head.image * source.rows + row) * source.stride + self.head.at..][..op.head_dim];
            }
            row -= source.rows;
        }
        panic!("there is no key {row}")
    }
}

impl Rows for Keys<'_> {
    #[inline(always)]
    fn read(&self, row: usize, k: usize, dst: &mut [f32]) {
        dst.copy_from_slice(&self.row(row)[k..][..dst.len()]);
    }
}

impl Head<'_> {
    fn run(&self, queries: std::ops::Range<usize>, out: &Shared<'_>, memory: &mut [f32]) {
        let (cpu, op, d) = (self.cpu, self.op, self.op.head_dim);
        let (height, width) = (cpu.rows(), cpu.cols());
        let own = op.own.map_or(0, |own| own.rows);
        let mut keys = op.keys();
        if let Some(len) = op.key_len {
            keys = keys.min(len[self.image] as usize);
        }
        if op.causal && op.context.is_none() {
            keys = keys.min(queries.end);
        }

        let mut scratch = Scratch::new(memory);
        let k_panels = scratch.take(keys.div_ceil(height) * height * cpu.depth(d));
        let v_rows = d.next_multiple_of(height);
        let v_panels = scratch.take(v_rows * cpu.depth(keys));
        let q_panel = scratch.take(width * cpu.depth(d));
        let scores = scratch.take(width * KEYS);
        let sums = scratch.take(width * v_rows);
        let rows = scratch.take(width * d);

        let source = Keys { head: self, values: false };
        for (row, panel) in (0..keys).step_by(height).zip(k_panels.chunks_exact_mut(height * cpu.depth(d))) {
            pack(cpu, &source, row, keys.min(row + height), height, 0, d, panel);
        }
        let source = Keys { head: self, values: true };
        for (key, panels) in (0..keys).step_by(KEYS).zip(v_panels.chunks_mut(v_rows * cpu.depth(KEYS))) {
            pack_columns(cpu, &source, key..keys.min(key + KEYS), d, height, panels);
        }

        let scale = 1.0 / (d as f32).sqrt();
        for first in queries.clone().step_by(width) {
            let end = queries.end.min(first + width);
            pack(cpu, &Queries { head: self, scale }, first, end, width, 0, d, q_panel);
            let mut softmax = Softmax::new();
            let blocks = k_panels.chunks(KEYS * cpu.depth(d)).zip(v_panels.chunks(v_rows * cpu.depth(KEYS)));
            for (key, (k_panels, v_panels)) in (0..keys).step_by(KEYS).zip(blocks) {
                let panels = k_panels.chunks_exact(height * cpu.depth(d));
                for (panel, scores) in panels.zip(scores.chunks_exact_mut(height * width)) {
                    tile(cpu, panel, q_panel, scores, false);
                }
                let count = KEYS.min(keys - key);
                let scores = &mut scores[..count * width];
                if op.causal {
                    for (key, scores) in (key..own).zip(scores.chunks_exact_mut(width)) {
                        let hidden = key.saturating_sub(first).min(width);
                        scores[..hidden].fill(f32::NEG_INFINITY);
                    }
                }
                let rescale = exponentiate(cpu, scores, width, &mut softmax);
                if let Some(rescale) = rescale.filter(|_| key > 0) {
                    scale_columns(cpu, &rescale[..width], sums);
                }
                let weights = &scores[..cpu.depth(count) * width];
                let panels = v_panels.chunks_exact(height * cpu.depth(count));
                for (panel, sums) in panels.zip(sums.chunks_exact_mut(height * width)) {
                    tile(cpu, panel, weights, sums, key > 0);
                }
            }
            transpose(cpu, sums, width, d, rows);
            for ((query, sum), row) in (first..end).zip(softmax.sum).zip(rows.chunks_exact(d)) {
                let at = (self.image * op.q_rows + query) * op.heads * d + self.at;
                // SAFETY: no other task writes this head's channels of this query.
                let out = unsafe { out.range(at, d) };
                let norm = 1.0 / sum;
                out.iter_mut().zip(row).for_each(|(out, sum)| *out = sum * norm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::*;

    fn reference(op: &Attention<'_>, round: fn(f32) -> f32) -> Vec<f64> {
        let d = op.head_dim;
        let own = op.own.map_or(0, |own| own.rows);
        let mut out = vec![0.0; op.images * op.q_rows * op.heads * d];
        for image in 0..op.images {
            for query in 0..op.q_rows {
                for head in 0..op.heads {
                    let row =
                        |part: KeyValue<'_>, r: usize, i: usize| (image * part.rows + r) * part.stride + head * d + i;
                    let mut seen = Vec::new();
                    for (part, first) in [(op.own, 0), (op.context, own)] {
                        let Some(part) = part else { continue };
                        seen.extend((0..part.rows).map(|r| (part, r, first + r)));
                    }
                    seen.retain(|&(_, _, key)| !op.causal || key >= own || key <= query);
                    seen.retain(|&(_, _, key)| op.key_len.is_none_or(|len| key < len[image] as usize));
                    let scale = 1.0 / (d as f32).sqrt();
                    let score = |&(part, r, _): &(KeyValue<'_>, usize, usize)| -> f64 {
                        let q = |i| op.q[(image * op.q_rows + query) * op.q_stride + head * d + i];
                        (0..d).map(|i| f64::from(round(q(i) * scale)) * f64::from(round(part.k[row(part, r, i)]))).sum()
                    };
                    let scores: Vec<f64> = seen.iter().map(score).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                    for i in 0..d {
                        let value = |(s, &(part, r, _)): (&f64, &(KeyValue<'_>, usize, usize))| {
                            (s - largest).exp() * f64::from(round(part.v[row(part, r, i)]))
                        };
                        out[((image * op.q_rows + query) * op.heads + head) * d + i] =
                            scores.iter().zip(&seen).map(value).sum::<f64>() / sum;
                    }
                }
            }
        }
        out
    }

    fn check(op: &Attention<'_>) {
        for isa in available() {
            let expected = reference(op, rounding(isa));
            let out = on_threads(|threads| {
                let mut out = vec![f32::NAN; expected.len()];
                let mut scratch = vec![f32::NAN; attention_scratch(op.keys(), op.head_dim, threads)];
                attention(isa, op, &mut out, &mut scratch);
                out
            });
            // bf16 weights have 8 significant bits. In f32, the rounding of the scores limits the accuracy.
            let tolerance = if isa == Isa::Avx512Bf16 { 1e-2 } else { 1e-5 };
            assert_close(&out, &expected, tolerance, &format!("{isa:?} {} {} {}", op.q_rows, op.keys(), op.head_dim));
        }
    }

    /// Concatenated q, k and v with values up to 4, and concatenated k and v of the context.
    fn inputs(images: usize, heads: usize, d: usize, tokens: usize, context: usize) -> (Vec<f32>, Vec<f32>) {
        let mut qkv = random(images * tokens * 3 * heads * d, 1);
        qkv.iter_mut().for_each(|x| *x *= 4.0);
        (qkv, random(images * context * 2 * heads * d, 2))
    }

    #[test]
    fn own_and_context_keys() {
        for (images, heads, d, tokens, context) in [
            (2, 2, 64, 50, 7),
            (1, 1, 4, 1, 1),
            (2, 3, 5, 33, 1),
            (1, 2, 16, 97, 40),
            (1, 1, 33, 13, 12),
            (1, 2, 20, 401, 30),
        ] {
            let (qkv, kv) = inputs(images, heads, d, tokens, context);
            let c = heads * d;
            let own = KeyValue { k: &qkv[c..], v: &qkv[2 * c..], stride: 3 * c, rows: tokens };
            let others = KeyValue { k: &kv, v: &kv[c..], stride: 2 * c, rows: context };
            let op = Attention {
                images,
                heads,
                head_dim: d,
                q: &qkv,
                q_stride: 3 * c,
                q_rows: tokens,
                own: Some(own),
                context: Some(others),
                causal: false,
                key_len: None,
            };
            check(&op);
            check(&Attention { own: None, ..op });
            check(&Attention { context: None, ..op });
            check(&Attention { context: None, causal: true, ..op });
            check(&Attention { causal: true, ..op });
            let lens: Vec<u32> = (0..images).map(|i| (1 + i * tokens / 2) as u32).collect();
            check(&Attention { key_len: Some(&lens), ..op });
            check(&Attention { key_len: Some(&lens), context: None, causal: true, ..op });
        }
    }
}
