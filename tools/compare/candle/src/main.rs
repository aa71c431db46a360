//! Times operations of Stable Cascade in candle on the CPU and prints one line of JSON for each.
//!
//! Names, shapes and FLOP counts are those of `torch_kernels.py`. Like cascade-rt, and unlike PyTorch as `diffusers` uses
//! it, candle uses the channels-last layout, so nothing is permuted. candle has no fast depthwise convolution, so that
//! operation is missing.

use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Result, Tensor};

const CPU: &Device = &Device::Cpu;

/// An operation, and the floating-point operations per call.
struct Operation {
    name: String,
    flops: usize,
    call: Box<dyn Fn() -> Result<Tensor>>,
}

fn random(dims: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, dims, CPU)?.to_dtype(dtype)
}

fn linear(m: usize, k: usize, n: usize, dtype: DType) -> Result<Operation> {
    let (x, bias) = (random(&[m, k], dtype)?, random(&[n], dtype)?);
    let w = (random(&[n, k], DType::F32)? / (k as f64).sqrt())?.to_dtype(dtype)?;
    let call = Box::new(move || x.matmul(&w.t()?)?.broadcast_add(&bias));
    Ok(Operation { name: format!("linear_{m}x{k}x{n}"), flops: 2 * m * k * n, call })
}

fn attention(tokens: usize, context: usize, heads: usize, dim: usize, dtype: DType) -> Result<Operation> {
    let keys = tokens + context;
    let q = random(&[1, heads, tokens, dim], dtype)?;
    let (k, v) = (random(&[1, heads, keys, dim], dtype)?, random(&[1, heads, keys, dim], dtype)?);
    let scale = 1.0 / (dim as f64).sqrt();
    let call = Box::new(move || {
        let scores = (q.matmul(&k.transpose(D::Minus1, D::Minus2)?)? * scale)?;
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
    });
    let name = format!("attention_{tokens}+{context}x{heads}x{dim}");
    Ok(Operation { name, flops: 4 * heads * tokens * keys * dim, call })
}

fn layer_norm(shape: [usize; 4], dtype: DType) -> Result<Operation> {
    let [n, h, w, c] = shape;
    let x = random(&shape, dtype)?;
    let (scale, shift) = (Tensor::ones(c, dtype, CPU)?, Tensor::zeros(c, dtype, CPU)?);
    let call = Box::new(move || candle_nn::ops::layer_norm(&x, &scale, &shift, 1e-6));
    Ok(Operation { name: format!("layer_norm_{n}x{h}x{w}x{c}"), flops: 8 * n * h * w * c, call })
}

fn operations(dtype: DType) -> Result<Vec<Operation>> {
    Ok(vec![
        linear(576, 2048, 2048, dtype)?,
        linear(1024, 1280, 5120, dtype)?,
        linear(1024, 5120, 1280, dtype)?,
        attention(576, 85, 32, 64, dtype)?,
        attention(1024, 4, 20, 64, dtype)?,
        layer_norm([2, 24, 24, 2048], dtype)?,
        layer_norm([1, 128, 128, 320], dtype)?,
    ])
}

/// Times of calls in milliseconds, in ascending order.
fn times(operation: &Operation, budget: Duration) -> Result<Vec<f64>> {
    for _ in 0..3 {
        (operation.call)()?;
    }
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || begin.elapsed() < budget {
        let start = Instant::now();
        (operation.call)()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The value of a command-line option.
fn flag(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn main() -> Result<()> {
    let only = flag("--only").unwrap_or_default();
    let seconds = flag("--seconds").map_or(1.0, |text| text.parse().expect("--seconds takes a number"));
    for (dtype, label) in [(DType::F32, "f32"), (DType::BF16, "bf16")] {
        for operation in operations(dtype)?.iter().filter(|operation| operation.name.contains(&only)) {
            let Operation { name, flops, .. } = operation;
            let times = match times(operation, Duration::from_secs_f64(seconds)) {
                Ok(times) => times,
                Err(error) => {
                    eprintln!("candle cannot run {name} in {label}: {error}");
                    continue;
                }
            };
            let (min, median) = (times[0], times[times.len() / 2]);
            let gflops = *flops as f64 / median / 1e6;
            println!(
                r#"{{"name": "{name}", "dtype": "{label}", "median_ms": {median:.4}, "min_ms": {min:.4}, "gflops": {gflops:.1}}}"#
            );
        }
    }
    Ok(())
}
