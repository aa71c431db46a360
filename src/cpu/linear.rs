//! `linear`: `y = modulate(act((x·s + t)·Wᵀ + bias) + residual)`.
#![allow(unsafe_code, reason = "tasks write disjoint ranges of one output")]

use std::ops::Range;

use super::few::{few, few_scratch};
use super::gemm::{Epilogue, gemm, gemm_scratch};
use super::int8::{Restored, Rounded, rounded_scratch};
use super::math::{fma, gelu, swish};
use super::rows::{Rows, Strided, WeightRows, widen_all};
use super::scratch::{LINE, Scratch, Shared, lines};
use super::{Isa, Verified, per_isa};
use crate::ops::Function;
use crate::tensor::Weight;

/// The residual that is added after the activation.
#[derive(Debug, Clone, Copy, Default)]
pub enum Residual<'a> {
    /// Nothing.
    #[default]
    None,
    /// `[m, n]`, in memory of its own.
    Slice(&'a [f32]),
    /// The values that the output holds before the call.
    InPlace,
}

/// Operands of [`linear`]. The `m` rows belong to `images` images, `m / images` rows each.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// `[m, k]`
    pub x: &'a [f32],
    /// `[n, k]`
    pub weight: &'a Weight,
    /// `[n]`
    pub bias: Option<&'a Weight>,
    /// Scale of the input, `[images, k]`: the result of [`grn_scale`](super::grn::grn_scale).
    pub scale: Option<&'a [f32]>,
    /// Shift of the input, `[k]`.
    pub shift: Option<&'a Weight>,
    /// Activation function, applied after the bias was added.
    pub function: Function,
    /// Added after the activation.
    pub residual: Residual<'a>,
    /// `a` then `b`, `[images, 2n]` or `[2n]` for all images: the last step is `y·(1 + a) + b`.
    pub modulate: Option<&'a [f32]>,
}

impl<'a> Linear<'a> {
    /// `x·Wᵀ` alone. Set the other fields to fuse further ops.
    pub fn new(x: &'a [f32], weight: &'a Weight) -> Self {
        let (function, residual) = (Function::Identity, Residual::None);
        Self { x, weight, bias: None, scale: None, shift: None, function, residual, modulate: None }
    }
}

/// f32 of scratch that [`linear`] needs for `threads` threads.
pub fn linear_scratch(m: usize, n: usize, k: usize, threads: usize) -> usize {
    LINE + lines(n) + lines(k) + gemm_scratch(m, k, threads)
}

/// The same for [`Isa::INT8`].
pub fn linear_int8_scratch(m: usize, n: usize, k: usize, threads: usize) -> usize {
    LINE + lines(n) + lines(k) + rounded_scratch(m, n, k) + gemm_scratch(m, k.div_ceil(2), threads)
}

/// The same for [`linear_few`], with whatever instruction set.
pub fn linear_few_scratch(m: usize, n: usize, k: usize, threads: usize) -> usize {
    LINE + lines(n) + lines(k) + rounded_scratch(m, n, k) + few_scratch(m, k, threads)
}

/// How products are computed.
#[derive(Clone, Copy)]
enum Product {
    /// By [`gemm`].
    Packed,
    /// By [`few`].
    Few,
}

/// Computes `out [m, n]`.
///
/// Numerics: f32 accumulators. With [`Isa::Avx512Bf16`], the GEMM inputs `x·s + t`
/// and `W` are rounded to bf16. With [`Isa::INT8`], `W` is int8 with a factor for each row, each row of `x·s + t` is
/// rounded to int8 with a factor of its own, and integers are summed exactly: the results of all these instruction sets
/// are as equal as those of `x·s + t` and of the epilogue.
pub fn linear(isa: Isa, op: &Linear<'_>, out: &mut [f32], scratch: &mut [f32]) {
    run(isa, op, Product::Packed, out, scratch);
}

/// [`linear`] for few rows: the weight is read as it lies in memory, not packed. Sums are of another order, so that the
/// results are not the same in all bits.
pub fn linear_few(isa: Isa, op: &Linear<'_>, out: &mut [f32], scratch: &mut [f32]) {
    run(isa, op, Product::Few, out, scratch);
}

fn run(isa: Isa, op: &Linear<'_>, how: Product, out: &mut [f32], scratch: &mut [f32]) {
    let n = op.weight.dims[0];
    let k = op.weight.dims[1..].iter().product::<usize>();
    let m = op.x.len() / k;
    assert!(op.x.len() == m * k && out.len() == m * n, "x [{m}, {k}], out [{m}, {n}]");

    let mut scratch = Scratch::new(scratch);
    let bias = scratch.take(n);
    bias.fill(0.0);
    if let Some(from) = op.bias {
        widen_all(from, bias);
    }
    let shift = scratch.take(k);
    shift.fill(0.0);
    if let Some(from) = op.shift {
        widen_all(from, shift);
    }
    let epilogue = LinearEpilogue {
        bias,
        function: op.function,
        residual: op.residual,
        modulate: op.modulate,
        image_rows: op.modulate.map_or(m, |values| m * 2 * n / values.len()),
        out: Shared::new(out),
    };
    let (cpu, x) = (isa.verify(), Strided { values: op.x, stride: k });
    if op.scale.is_none() && op.shift.is_none() {
        return product(cpu, how, [m, n, k], &x, op.weight, &epilogue, scratch);
    }
    let image_rows = op.scale.map_or(m, |scale| m * k / scale.len());
    let x = Scaled { x, scale: op.scale, shift, image_rows };
    product(cpu, how, [m, n, k], &x, op.weight, &epilogue, scratch);
}

/// The product of a linear layer. If integers are multiplied, its input is rounded first.
fn product<R: Rows>(
    cpu: Verified,
    how: Product,
    size: [usize; 3],
    x: &R,
    weight: &Weight,
    epilogue: &LinearEpilogue<'_>,
    mut scratch: Scratch<'_>,
) {
    if !Isa::INT8.contains(&cpu.isa()) {
        return multiply(cpu, how, size, x, weight, epilogue, scratch);
    }
    let rounded = Rounded::new(cpu, x, size, weight, &mut scratch);
    multiply(cpu, how, size, &rounded, weight, &Restored { rounded: &rounded, then: epilogue }, scratch);
}

fn multiply<R: Rows, E: Epilogue>(
    cpu: Verified,
    how: Product,
    size: [usize; 3],
    x: &R,
    weight: &Weight,
    epilogue: &E,
    scratch: Scratch<'_>,
) {
    let weight = WeightRows::new(weight, size[2]);
    match how {
        Product::Packed => gemm(cpu, size, x, &weight, epilogue, scratch.rest()),
        Product::Few => few(cpu, size, x, &weight, epilogue, scratch.rest()),
    }
}

/// The fused prologue: `x·s + t`, computed as `x` is packed.
struct Scaled<'a> {
    x: Strided<'a>,
    scale: Option<&'a [f32]>,
    shift: &'a [f32],
    image_rows: usize,
}

impl Rows for Scaled<'_> {
    #[inline(always)]
    fn read(&self, row: usize, k: usize, dst: &mut [f32]) {
        self.x.read(row, k, dst);
        let shift = &self.shift[k..][..dst.len()];
        if let Some(scale) = self.scale {
            let scale = &scale[row / self.image_rows * self.x.stride + k..][..dst.len()];
            dst.iter_mut().zip(scale).for_each(|(x, s)| *x *= s);
        }
        dst.iter_mut().zip(shift).for_each(|(x, t)| *x += t);
    }
}

/// The fused epilogue: everything after the GEMM.
struct LinearEpilogue<'a> {
    /// `[n]`
    bias: &'a [f32],
    function: Function,
    residual: Residual<'a>,
    modulate: Option<&'a [f32]>,
    /// Rows that share a row of `modulate`.
    image_rows: usize,
    out: Shared<'a>,
}

impl Epilogue for LinearEpilogue<'_> {
    fn store(&self, cpu: Verified, rows: Range<usize>, cols: Range<usize>, values: &mut [f32]) {
        epilogue(cpu, self, rows, cols, values);
    }
}

per_isa! {
    /// [`Epilogue::store`] for [`LinearEpilogue`].
    fn epilogue(cpu, to: &LinearEpilogue<'_>, rows: Range<usize>, cols: Range<usize>, values: &mut [f32]) {
        match cpu.cols() {
            32 => epilogue_lanes::<FMA, 32>(to, rows, cols, values),
            16 => epilogue_lanes::<FMA, 16>(to, rows, cols, values),
            _ => epilogue_lanes::<FMA, 8>(to, rows, cols, values),
        }
    }
}

/// [`epilogue`] for a tile width that is known at compile time.
#[inline(always)]
fn epilogue_lanes<const FMA: bool, const LANES: usize>(
    to: &LinearEpilogue<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    values: &mut [f32],
) {
    let n = to.bias.len();
    let bias: [f32; LANES] = padded(&to.bias[cols.clone()]);
    for (row, y) in rows.zip(values.as_chunks_mut::<LANES>().0) {
        let at = row * n + cols.start;
        // SAFETY: `gemm` stores each element once, so no two tasks request overlapping ranges.
        let out = unsafe { to.out.range(at, cols.len()) };
        y.iter_mut().zip(&bias).for_each(|(y, bias)| *y += bias);
        match to.function {
            Function::Identity => (),
            Function::GeluErf => y.iter_mut().for_each(|y| *y = gelu::<FMA>(*y)),
            Function::QuickGelu => y.iter_mut().for_each(|y| *y = swish::<FMA>(*y, 1.702)),
            Function::Silu => y.iter_mut().for_each(|y| *y = swish::<FMA>(*y, 1.0)),
        }
        let residual = match to.residual {
            Residual::None => None,
            Residual::Slice(x) => Some(padded::<LANES>(&x[at..][..cols.len()])),
            Residual::InPlace => Some(padded::<LANES>(out)),
        };
        if let Some(residual) = residual {
            y.iter_mut().zip(&residual).for_each(|(y, x)| *y += x);
        }
        if let Some(modulate) = to.modulate {
            let (a, b) = modulate[row / to.image_rows * 2 * n..][..2 * n].split_at(n);
            let (a, b) = (padded::<LANES>(&a[cols.clone()]), padded::<LANES>(&b[cols.clone()]));
            y.iter_mut().zip(a.iter().zip(&b)).for_each(|(y, (a, b))| *y = fma::<FMA>(*y, 1.0 + a, *b));
        }
        match out.first_chunk_mut() {
            Some(out) => *out = *y,
            None => out.copy_from_slice(&y[..cols.len()]),
        }
    }
}

/// At most `LANES` values, padded with zeros.
#[inline(always)]
fn padded<const LANES: usize>(values: &[f32]) -> [f32; LANES] {
    values.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0.0; LANES];
        padded[..values.len()].copy_from_slice(values);
        padded
    })
}

#[cfg(test)]
mod tests;
