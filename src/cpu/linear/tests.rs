//! Linear layers with every instruction set, packed and by few rows, against f64.

use super::*;
use crate::cpu::testing::*;
use crate::tensor::int8;

/// The op in f64, where `round` rounds the GEMM inputs as the instruction set does, `[x, weight]` by rows.
fn reference(op: &Linear<'_>, before: &[f32], round: impl Fn(&mut [f32], bool)) -> Vec<f64> {
    let (n, k) = (op.weight.dims[0], op.weight.dims[1]);
    let m = op.x.len() / k;
    let mut weight = op.weight.to_f32();
    weight.chunks_mut(k).for_each(|row| round(row, true));
    let (bias, shift) = (op.bias.map(Weight::to_f32), op.shift.map(Weight::to_f32));
    let at = |values: Option<&[f32]>, len: usize, row: usize, i: usize| {
        values.map(|v| v[row / (m * len / v.len()).max(1) * len + i])
    };
    let mut out = Vec::new();
    for r in 0..m {
        let x = (0..k).map(|i| {
            let s = at(op.scale, k, r, i).unwrap_or(1.0);
            op.x[r * k + i] * s + shift.as_ref().map_or(0.0, |t| t[i])
        });
        let mut x: Vec<f32> = x.collect();
        round(&mut x, false);
        for o in 0..n {
            let weight = &weight[o * k..][..k];
            let mut y: f64 = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            y += bias.as_ref().map_or(0.0, |b| b[o].into());
            y = match op.function {
                Function::Identity => y,
                Function::GeluErf => 0.5 * y * (1.0 + libm::erf(y / 2f64.sqrt())),
                Function::QuickGelu => y / (1.0 + (-1.702 * y).exp()),
                Function::Silu => y / (1.0 + (-y).exp()),
            };
            y += match op.residual {
                Residual::None => 0.0,
                Residual::Slice(x) => x[r * n + o].into(),
                Residual::InPlace => before[r * n + o].into(),
            };
            let a = at(op.modulate, 2 * n, r, o).unwrap_or(0.0);
            let b = at(op.modulate, 2 * n, r, n + o).unwrap_or(0.0);
            out.push(y * (1.0 + f64::from(a)) + f64::from(b));
        }
    }
    out
}

fn check(op: &Linear<'_>) {
    let (n, k) = (op.weight.dims[0], op.weight.dims[1]);
    let m = op.x.len() / k;
    let before = random(m * n, 9);
    let is_int8 = op.weight.is_int8();
    let int8 = Isa::INT8.into_iter().filter(|isa| is_int8 && isa.available());
    for isa in available().chain(int8) {
        let is_int8 = Isa::INT8.contains(&isa);
        let expected = reference(op, &before, |row: &mut [f32], is_weight| {
            // A weight of int8 is what it is.
            if is_int8 && !is_weight {
                let mut integers = vec![0; row.len()];
                let factor = int8::quantise(row, &mut integers);
                row.iter_mut().zip(integers).for_each(|(x, i)| *x = f32::from(i) * factor);
            } else if !is_int8 {
                row.iter_mut().for_each(|x| *x = rounding(isa)(*x));
            }
        });
        let outs = on_threads(|threads| {
            let mut out = before.clone();
            let scratch = if is_int8 { linear_int8_scratch } else { linear_scratch };
            linear(isa, op, &mut out, &mut vec![f32::NAN; scratch(m, n, k, threads)]);
            out
        });
        // The error of a sum of k products of uniform values grows as √k.
        let tolerance = 6e-7 * (k as f64).sqrt().max(6.0);
        assert_close(&outs, &expected, tolerance, &format!("{isa:?} {m} {n} {k}"));
        let outs = on_threads(|threads| {
            let mut out = before.clone();
            linear_few(isa, op, &mut out, &mut vec![f32::NAN; linear_few_scratch(m, n, k, threads)]);
            out
        });
        assert_close(&outs, &expected, tolerance, &format!("{isa:?} {m} {n} {k}, few rows"));
    }
}

#[test]
fn odd_sizes() {
    for (m, n, k) in [(1, 1, 1), (1, 33, 3), (8, 7, 16), (13, 65, 17), (77, 100, 129), (26, 31, 1025), (1160, 70, 5)] {
        for dtype in [Dtype::F32, Dtype::I8] {
            check(&Linear::new(&random(m * k, 1), &weight(&[n, k], dtype, 2)));
        }
    }
    // More than one block of K for all instruction sets.
    check(&Linear::new(&random(13 * 4200, 1), &weight(&[40, 4200], Dtype::I8, 2)));
}

#[test]
fn dtypes_and_stacked_weights() {
    let k = 35;
    let weights =
        [(Dtype::Bf16, 20), (Dtype::F16, 31), (Dtype::F32, 9)].map(|(dtype, n)| weight(&[n, k], dtype, n as u64));
    let x = random(14 * k, 1);
    weights.iter().for_each(|weight| check(&Linear::new(&x, weight)));
    check(&Linear { bias: Some(&weight(&[60], Dtype::Bf16, 3)), ..Linear::new(&x, &Weight::stack(&weights)) });
    let integers = [20, 31, 9].map(|n| weight(&[n, k], Dtype::I8, n as u64));
    check(&Linear::new(&x, &Weight::stack(&integers)));
    check(&Linear::new(&x, &Weight::stack(&[integers[0].clone(), weights[1].clone()])));
}

#[test]
fn sums_of_integers_do_not_overflow() {
    // The largest magnitudes, all of one sign, and of as many channels as the registry allows.
    let k = 1 << 16;
    for sign in [1.0, -1.0] {
        let (x, w) = (vec![3.0; 2 * k], Weight::from_f32("test", &[3, k], vec![sign * 0.5; 3 * k]).to_int8());
        for isa in Isa::INT8.into_iter().filter(|isa| isa.available()) {
            let mut out = vec![0.0; 6];
            linear(isa, &Linear::new(&x, &w), &mut out, &mut vec![0.0; linear_int8_scratch(2, 3, k, 1)]);
            let expected = sign * 1.5 * k as f32;
            assert!(out.iter().all(|y| (y / expected - 1.0).abs() < 1e-6), "{isa:?}: {out:?}, {expected}");
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let w = weight(&[5, 40], Dtype::I8, 1);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = random(2 * 40, 2);
        x[7] = bad;
        for isa in Isa::INT8.into_iter().filter(|isa| isa.available()) {
            let mut out = vec![0.0; 10];
            linear(isa, &Linear::new(&x, &w), &mut out, &mut vec![0.0; linear_int8_scratch(2, 5, 40, 1)]);
            assert!(out[..5].iter().all(|y| !y.is_finite()) && out[5..].iter().all(|y| y.is_finite()), "{isa:?}");
        }
    }
}

#[test]
fn fused_prologue_and_epilogue() {
    let (m, n, k) = (26, 50, 33);
    let (x, residual) = (random(m * k, 1), random(m * n, 2));
    let (w, integers) = (weight(&[n, k], Dtype::Bf16, 3), weight(&[n, k], Dtype::I8, 3));
    let (bias, shift) = (weight(&[n], Dtype::F16, 4), weight(&[k], Dtype::F32, 5));
    let (scale, modulate) = (random(2 * k, 6), random(2 * 2 * n, 7));
    for function in [Function::Identity, Function::GeluErf, Function::QuickGelu, Function::Silu] {
        let op = Linear { bias: Some(&bias), function, ..Linear::new(&x, &w) };
        check(&op);
        check(&Linear { residual: Residual::Slice(&residual), ..op });
        check(&Linear { residual: Residual::InPlace, modulate: Some(&modulate[..2 * n]), ..op });
        check(&Linear { scale: Some(&scale), shift: Some(&shift), modulate: Some(&modulate), ..op });
        check(&Linear { scale: Some(&scale[..k]), ..op });
        let op = Linear { weight: &integers, ..op };
        check(&Linear { residual: Residual::InPlace, modulate: Some(&modulate[..2 * n]), ..op });
        check(&Linear { scale: Some(&scale), shift: Some(&shift), modulate: Some(&modulate), ..op });
    }
}
