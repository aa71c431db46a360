//! Rates that others have measured on an H100 SXM, at sizes like those of a picture where there are any. None is of these kernels.

/// A rate with its source, for the table of `kernels/ROOFLINE.md`.
pub struct Rate {
    pub what: &'static str,
    pub data_sheet: &'static str,
    pub measured: &'static str,
    pub source: &'static str,
}

/// Dense bf16 FLOP per second over a GEMM of 8192 × 8192 × 8192, where begins and ends of blocks hardly count: a GPU at its power
/// limit lowers its clock.
pub const FLOP: f64 = 808e12;

/// Bytes from and to memory per second in one pass over a large matrix.
pub const MEMORY: f64 = 2.8e12;

/// Seconds that a launch takes in a graph even if it does nothing.
pub const LAUNCH: f64 = 1.3e-6;

/// GEMMs by cuBLAS in fp16: rows, channels, K, and FLOP per second.
pub const GEMM: [(usize, usize, usize, f64); 5] = [
    (2048, 512, 512, 103e12),
    (2048, 1024, 1024, 243e12),
    (2048, 2048, 2048, 515e12),
    (2048, 4096, 4096, 614e12),
    (2048, 8192, 8192, 722e12),
];

/// FlashAttention-3: tokens, and FLOP per second with 16 heads of 128 channels and 16,384 tokens in all.
pub const ATTENTION: [(usize, f64); 3] = [(512, 430e12), (1024, 517e12), (2048, 566e12)];

/// What the constants above come from.
pub const RATES: [Rate; 5] = [
    Rate {
        what: "bf16 tensor cores, large GEMM",
        data_sheet: "949 TFLOP/s at 1.755 GHz",
        measured: "808 TFLOP/s (8192³; cuBLAS 798), 795 (6144³; cuBLAS 741)",
        source: "fast.cu, README (github.com/pranjalssh/fast.cu)",
    },
    Rate {
        what: "the same, GEMMs of these sizes",
        data_sheet: "949 TFLOP/s",
        measured: "cuBLAS, 2048 rows: 103 TFLOP/s (512 channels, K 512), 243 (1024), 515 (2048), 614 (4096), 722 (8192)",
        source: "triton-lang/triton#2339",
    },
    Rate {
        what: "attention",
        data_sheet: "949 TFLOP/s",
        measured: "FlashAttention-3, 128 channels a head: 430 TFLOP/s (512 tokens), 517 (1024), 566 (2048)",
        source: "pytorch/benchmark#2391",
    },
    Rate {
        what: "memory",
        data_sheet: "3.35 TB/s",
        measured: "2.8 TB/s, coalesced loads of a matrix",
        source: "M. Irai, \"GPU Memory Bandwidth\", 2026 (mikamirai.com/blog/gpu-memory-bandwidth)",
    },
    Rate {
        what: "a launch in a graph",
        data_sheet: "not stated",
        measured: "1.3 µs",
        source: "Hazy Research, \"Look Ma, No Bubbles!\", 2025",
    },
];

/// The value at `x` of a curve through these points, straight between them in logarithms; the nearest point's beyond the ends.
fn between(points: &[(f64, f64)], x: f64) -> f64 {
    let next = points.iter().position(|point| point.0 > x).unwrap_or(points.len());
    if next == 0 || next == points.len() {
        return points[next.saturating_sub(1)].1;
    }
    let ((x0, y0), (x1, y1)) = (points[next - 1], points[next]);
    let part = (x / x0).ln() / (x1 / x0).ln();
    y0 * (y1 / y0).powf(part)
}

/// Seconds that cuBLAS takes for a GEMM of so many FLOP, if it has a few hundred rows or more and is no smaller than what was
/// measured: thin ones are limited by memory.
pub fn gemm(rows: usize, flops: f64) -> Option<f64> {
    let points = GEMM.map(|(m, n, k, rate)| (2.0 * (m * n * k) as f64, rate));
    (rows >= 256 && flops >= points[0].0).then(|| flops / between(&points, flops))
}

/// Seconds that FlashAttention-3 takes for so many FLOP, with so many keys a query.
pub fn attention(keys: usize, flops: f64) -> f64 {
    flops / between(&ATTENTION.map(|(tokens, rate)| (tokens as f64, rate)), keys as f64)
}

#[test]
fn rates_between_measurements_are_between_them() {
    for (m, n, k, rate) in GEMM {
        let flops = 2.0 * (m * n * k) as f64;
        assert!((gemm(m, flops).unwrap() * rate / flops - 1.0).abs() < 1e-9);
    }
    assert_eq!((gemm(64, 4e9), gemm(2048, 1e8)), (None, None));
    let seconds = gemm(1152, 38.65e9).unwrap();
    assert!((515e12..614e12).contains(&(38.65e9 / seconds)));
    assert!((430e12..517e12).contains(&(1e9 / attention(661, 1e9))));
    assert_eq!((1e9 / attention(300, 1e9)).round(), 430e12);
}
