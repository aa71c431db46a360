//! `conv2d` and `conv_transpose2d` as GEMMs with implicit im2col: the im2col
//! matrix is never stored, its rows are gathered from the image as they are packed.
//!
//! M counts output pixels, N output channels, and K is taps × input channels, so
//! that a row consists of a few contiguous runs of channels. A transposed
//! convolution with stride `s` is `s²` such GEMMs (a polyphase decomposition):
//! output pixels with the same remainder modulo `s` in each direction use the same
//! taps, and neighbouring ones read neighbouring input pixels.
#![allow(unsafe_code, reason = "tasks write disjoint ranges of one output")]

use std::ops::Range;

use rayon::prelude::*;

use super::elementwise::{Extent, sum};
use super::gemm::{Epilogue, gemm, gemm_scratch};
use super::rows::{Rows, Strided, WeightRows, widen_all};
use super::scratch::{LINE, Scratch, Shared, lines};
use super::{Isa, Verified};
use crate::tensor::Weight;

/// Output channels whose weights [`conv_transpose2d`] reorders at a time, so that it reads at least a cache line
/// of each input channel's weights.
const GROUP: usize = 16;
/// How many input channels ahead it prefetches: the weights of different input channels are on different pages,
/// which the hardware prefetcher does not follow.
const AHEAD: usize = 8;

/// Stride and padding of a convolution, the same in both directions.
#[derive(Debug, Clone, Copy)]
pub struct ConvParams {
    /// Distance in pixels between neighbouring positions of the kernel.
    pub stride: usize,
    /// Zeros added on each side of the input; a transposed convolution removes as many pixels of its output instead.
    pub padding: usize,
}

/// Height or width of [`conv2d`]'s result, for an input of `x` pixels and a kernel of `k`.
pub fn conv_extent(x: usize, k: usize, ConvParams { stride, padding }: ConvParams) -> usize {
    (x + 2 * padding - k) / stride + 1
}

/// Height or width of [`conv_transpose2d`]'s result, for an input of `x` pixels and a kernel of `k`.
pub fn conv_transpose_extent(x: usize, k: usize, ConvParams { stride, padding }: ConvParams) -> usize {
    (x - 1) * stride + k - 2 * padding
}

/// f32 of scratch that [`conv2d`] and [`conv_transpose2d`] need for a weight of
/// dimensions `dims` and `pixels` output pixels, counted over all images.
pub fn conv_scratch(pixels: usize, dims: &[usize], transposed: bool, threads: usize) -> usize {
    let (o, i) = if transposed { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    let taps = dims[2] * dims[3];
    let gemm = gemm_scratch(pixels, i * taps, threads);
    LINE + lines(o) + lines(o * i * taps) + lines(o.max(i) * taps) + gemm
}

/// `out [n, oh, ow, o] = conv(x) + bias` for `x [n, h, w, c]` and `weight [o, c, kh, kw]`.
#[allow(clippy::too_many_arguments, reason = "a kernel's operands are its arguments")]
pub fn conv2d(
    isa: Isa,
    x: &[f32],
    extent: Extent,
    weight: &Weight,
    bias: Option<&Weight>,
    params: ConvParams,
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let [n, h, w, c] = extent;
    let [o, i, kh, kw] = weight.dims[..] else { panic!("a convolution's weight has 4 dimensions") };
    let out_size = [conv_extent(h, kh, params), conv_extent(w, kw, params)];
    assert!(i == c && x.len() == n * h * w * c && out.len() == n * out_size[0] * out_size[1] * o);

    let mut scratch = Scratch::new(scratch);
    let bias = bias_in(&mut scratch, bias, o);
    let (ordered, stored) = (scratch.take(o * c * kh * kw), scratch.take(c * kh * kw));
    let rows = WeightRows::new(weight, stored.len());
    for (row, to) in ordered.chunks_exact_mut(stored.len()).enumerate() {
        rows.read(row, 0, stored);
        for (tap, to) in to.chunks_exact_mut(c).enumerate() {
            to.iter_mut().zip(stored.iter().skip(tap).step_by(kh * kw)).for_each(|(to, from)| *to = *from);
        }
    }
    let origin = [-(params.padding as isize); 2];
    let x = Im2col { x, extent, grid: out_size, stride: params.stride, origin, step: 1, taps: [kh, kw] };
    let epilogue = ConvEpilogue { bias, grid: out_size, out_size, first: [0, 0], stride: 1, out: Shared::new(out) };
    conv_gemm(isa.verify(), &x, ordered, &epilogue, scratch.rest());
}

/// `out [n, oh, ow, o] = convᵀ(x) + bias` for `x [n, h, w, c]` and
/// `weight [c, o, kh, kw]`, with `kh, kw >= stride`.
#[allow(clippy::too_many_arguments, reason = "a kernel's operands are its arguments")]
pub fn conv_transpose2d(
    isa: Isa,
    x: &[f32],
    extent: Extent,
    weight: &Weight,
    bias: Option<&Weight>,
    params: ConvParams,
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let [n, h, w, c] = extent;
    let [i, o, kh, kw] = weight.dims[..] else { panic!("a convolution's weight has 4 dimensions") };
    let ConvParams { stride, padding } = params;
    let out_size = [conv_transpose_extent(h, kh, params), conv_transpose_extent(w, kw, params)];
    assert!(i == c && x.len() == n * h * w * c && out.len() == n * out_size[0] * out_size[1] * o);
    assert!(kh.min(kw) >= stride, "every output pixel is reached by a tap");

    let mut scratch = Scratch::new(scratch);
    let bias = bias_in(&mut scratch, bias, o);
    let (ordered, stored) = (scratch.take(o * c * kh * kw), scratch.take(o * kh * kw));
    let rows = WeightRows::new(weight, o * kh * kw);
    let memory = scratch.rest();
    for segment in 0..stride * stride {
        let first = [segment / stride, segment % stride];
        // Output pixel `first + s·p` is the sum of taps `tap0 + s·t` applied to input pixels `p + origin − t`.
        let tap0 = first.map(|first| (first + padding) % stride);
        let origin = first.map(|first| ((first + padding) / stride) as isize);
        let taps = [(kh - tap0[0]).div_ceil(stride), (kw - tap0[1]).div_ceil(stride)];
        let grid = [0, 1].map(|d| out_size[d].saturating_sub(first[d]).div_ceil(stride));
        let row_len = taps[0] * taps[1] * c;
        let ordered = &mut ordered[..o * row_len];
        let group_len = GROUP * kh * kw;
        let ordering = ordered.par_chunks_mut(GROUP * row_len).zip(stored.par_chunks_mut(group_len));
        ordering.enumerate().for_each(|(group, (ordered, stored))| {
            for channel in 0..c {
                rows.prefetch(channel + AHEAD, group * group_len, stored.len());
                rows.read(channel, group * group_len, stored);
                for t in 0..taps[0] * taps[1] {
                    let tap = (tap0[0] + t / taps[1] * stride) * kw + tap0[1] + t % taps[1] * stride;
                    let to = ordered[t * c + channel..].iter_mut().step_by(row_len);
                    to.zip(stored[tap..].iter().step_by(kh * kw)).for_each(|(to, from)| *to = *from);
                }
            }
        });
        let x = Im2col { x, extent, grid, stride: 1, origin, step: -1, taps };
        let epilogue = ConvEpilogue { bias, grid, out_size, first, stride, out: Shared::new(out) };
        conv_gemm(isa.verify(), &x, ordered, &epilogue, memory);
    }
}

/// The bias as f32 in scratch memory, or zeros.
fn bias_in<'a>(scratch: &mut Scratch<'a>, from: Option<&Weight>, o: usize) -> &'a [f32] {
    let bias = scratch.take(o);
    bias.fill(0.0);
    if let Some(from) = from {
        widen_all(from, bias);
    }
    bias
}

fn conv_gemm(cpu: Verified, x: &Im2col<'_>, weights: &[f32], epilogue: &ConvEpilogue<'_>, scratch: &mut [f32]) {
    let k = x.taps[0] * x.taps[1] * x.extent[3];
    let m = x.extent[0] * x.grid[0] * x.grid[1];
    gemm(cpu, [m, epilogue.bias.len(), k], x, &Strided { values: weights, stride: k }, epilogue, scratch);
}

/// The im2col matrix of a batch of images. There is one row `[taps, c]` for each point `(y, x)` of the output
/// `grid`; its tap `(u, v)` is input pixel `(y·stride + origin + u·step, …)`, or zeros outside the image.
struct Im2col<'a> {
    x: &'a [f32],
    extent: Extent,
    grid: [usize; 2],
    stride: usize,
    origin: [isize; 2],
    step: isize,
    taps: [usize; 2],
}

impl Rows for Im2col<'_> {
    fn read(&self, row: usize, k: usize, dst: &mut [f32]) {
        let [_, h, w, c] = self.extent;
        let [rows, columns] = self.grid;
        let (image, y, x) = (row / columns / rows, row / columns % rows, row % columns);
        let place =
            |at: usize, d: usize, tap: usize| (at * self.stride) as isize + self.origin[d] + tap as isize * self.step;
        let (mut tap, mut channel, mut dst) = (k / c, k % c, dst);
        while !dst.is_empty() {
            let (head, tail) = dst.split_at_mut(dst.len().min(c - channel));
            let (y, x) = (place(y, 0, tap / self.taps[1]), place(x, 1, tap % self.taps[1]));
            if (0..h as isize).contains(&y) && (0..w as isize).contains(&x) {
                let at = ((image * h + y as usize) * w + x as usize) * c + channel;
                head.copy_from_slice(&self.x[at..][..head.len()]);
            } else {
                head.fill(0.0);
            }
            (tap, channel, dst) = (tap + 1, 0, tail);
        }
    }
}

/// Adds the bias and stores the result of grid point `(y, x)` at output pixel `first + stride·(y, x)`.
struct ConvEpilogue<'a> {
    bias: &'a [f32],
    grid: [usize; 2],
    out_size: [usize; 2],
    first: [usize; 2],
    stride: usize,
    out: Shared<'a>,
}

impl Epilogue for ConvEpilogue<'_> {
    fn store(&self, cpu: Verified, rows: Range<usize>, cols: Range<usize>, values: &mut [f32]) {
        let [height, width] = self.grid;
        for (row, values) in rows.zip(values.chunks_exact(cpu.cols())) {
            let y = self.first[0] + row / width % height * self.stride;
            let x = self.first[1] + row % width * self.stride;
            let pixel = (row / width / height * self.out_size[0] + y) * self.out_size[1] + x;
            // SAFETY: `gemm` stores each element once, and every row is a different pixel.
            let out = unsafe { self.out.range(pixel * self.bias.len() + cols.start, cols.len()) };
            sum(cpu, &values[..cols.len()], &self.bias[cols.clone()], out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::*;

    /// Both convolutions in f64, by testing for every input pixel, output pixel and tap whether they belong together.
    fn reference(
        x: &[f32],
        [n, h, w, c]: Extent,
        weight: &Weight,
        bias: Option<&Weight>,
        params: ConvParams,
        transposed: bool,
        round: fn(f32) -> f32,
    ) -> Vec<f64> {
        let (kh, kw, weights) = (weight.dims[2], weight.dims[3], weight.to_f32());
        let (o, size): (usize, fn(usize, usize, ConvParams) -> usize) =
            if transposed { (weight.dims[1], conv_transpose_extent) } else { (weight.dims[0], conv_extent) };
        let (oh, ow) = (size(h, kh, params), size(w, kw, params));
        let bias = bias.map_or(vec![0.0; o], Weight::to_f32);
        let mut out: Vec<f64> = (0..n * oh * ow * o).map(|i| f64::from(bias[i % o])).collect();
        // Whether tap `t` connects pixel `small` of the smaller image with pixel `large` of the larger one.
        let connected = |small: usize, large: usize, t: usize| small * params.stride + t == large + params.padding;
        for at in 0..n * h * w {
            let (image, y, i) = (at / w / h, at / w % h, at % w);
            for at_out in 0..oh * ow {
                let (y2, i2) = (at_out / ow, at_out % ow);
                for tap in 0..kh * kw {
                    let (u, v) = (tap / kw, tap % kw);
                    let hit = if transposed {
                        connected(y, y2, u) && connected(i, i2, v)
                    } else {
                        connected(y2, y, u) && connected(i2, i, v)
                    };
                    for pair in 0..if hit { o * c } else { 0 } {
                        let (to, from) = (pair / c, pair % c);
                        let row = if transposed { from * o + to } else { to * c + from };
                        out[(image * oh * ow + at_out) * o + to] +=
                            f64::from(round(x[at * c + from])) * f64::from(round(weights[row * kh * kw + tap]));
                    }
                }
            }
        }
        out
    }

    #[test]
    fn both_directions() {
        let sizes = [
            ([2, 8, 6, 20], 37, [2, 2], 2, 0),
            ([1, 8, 8, 5], 70, [4, 4], 2, 1),
            ([1, 7, 9, 33], 8, [3, 3], 1, 1),
            ([2, 9, 7, 3], 9, [3, 3], 2, 1),
            ([1, 14, 7, 3], 6, [7, 7], 7, 0),
            ([1, 3, 5, 130], 3, [1, 1], 1, 0),
            ([1, 6, 7, 4], 5, [3, 2], 2, 1),
        ];
        for (extent @ [n, h, w, c], o, [kh, kw], stride, padding) in sizes {
            let (x, bias) = (random(n * h * w * c, 1), weight(&[o], Dtype::F16, 3));
            let params = ConvParams { stride, padding };
            for (transposed, dims) in [(false, [o, c, kh, kw]), (true, [c, o, kh, kw])] {
                let (weight, bias) = (weight(&dims, Dtype::Bf16, 2), if padding == 0 { None } else { Some(&bias) });
                let run = if transposed { conv_transpose2d } else { conv2d };
                for isa in available() {
                    let expected = reference(&x, extent, &weight, bias, params, transposed, rounding(isa));
                    let out = on_threads(|threads| {
                        let mut out = vec![f32::NAN; expected.len()];
                        let scratch = conv_scratch(expected.len() / o, &dims, transposed, threads);
                        run(isa, &x, extent, &weight, bias, params, &mut out, &mut vec![f32::NAN; scratch]);
                        out
                    });
                    assert_close(&out, &expected, 1e-5, &format!("{isa:?} {extent:?} {dims:?} {transposed}"));
                }
            }
        }
    }
}
