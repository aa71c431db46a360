//! The operations that `tools/compare` times in several programs, with the names of its `torch_kernels.py`.

use std::time::Duration;

use cascade_rt::backend::{Backend, cpu};
use cascade_rt::measure::task::{Operand, Task};
use cascade_rt::ops::{self, Affine, Element, Function, Op};
use cascade_rt::shape::Shape;
use cascade_rt::tensor::Dtype;

/// The name of each operation, its sizes as `torch_kernels.py` prints them, and the task.
fn tasks(dtype: Dtype) -> Vec<(String, Vec<usize>, Task)> {
    let slot = |n, h, w, c| Some(Operand::Slot(Shape::new(n, h, w, c), Element::F32));
    let weight = |dims: &[usize]| Some(Operand::Weight(dims.to_vec(), vec![(dims.iter().product(), dtype)]));
    let mut all = Vec::new();
    for [m, k, n] in [[576, 2048, 2048], [1024, 1280, 5120], [1024, 5120, 1280]] {
        let op = ops::Linear { function: Function::Identity }.into();
        let mut inputs = vec![slot(1, 1, m, k), weight(&[n, k]), weight(&[n])];
        inputs.resize(8, None);
        all.push((format!("linear_{m}x{k}x{n}"), vec![m, k, n], Task { op, inputs, result: Element::F32 }));
    }
    for [tokens, context, heads, head_dim] in [[576, 85, 32, 64], [1024, 4, 20, 64]] {
        let op = ops::Attention { heads, head_dim, self_part: true, causal: false }.into();
        let c = heads * head_dim;
        let inputs = vec![slot(1, 1, tokens, 3 * c), slot(1, 1, context, 2 * c), None];
        let sizes = vec![tokens, context, heads, head_dim];
        all.push((
            format!("attention_{tokens}+{context}x{heads}x{head_dim}"),
            sizes,
            Task { op, inputs, result: Element::F32 },
        ));
    }
    for [n, h, w, c] in [[2, 24, 24, 2048], [1, 128, 128, 320]] {
        let mut add = |name: &str, c: usize, op: Op, inputs| {
            all.push((format!("{name}_{n}x{h}x{w}x{c}"), vec![n, h, w, c], Task { op, inputs, result: Element::F32 }));
        };
        let norm = ops::DepthwiseNorm { eps: 1e-6 };
        add("depthwise_norm", c, norm.into(), vec![slot(n, h, w, c), weight(&[c, 1, 3, 3]), weight(&[c])]);
        let norm = ops::LayerNorm { eps: 1e-6, affine: Affine::None };
        add("layer_norm", c, norm.into(), vec![slot(n, h, w, c), None, None]);
        let norm = ops::GrnScale { eps: 1e-6 };
        add("grn", 4 * c, norm.into(), vec![slot(n, h, w, 4 * c), weight(&[4 * c])]);
    }
    all
}

/// Prints one line per operation and dtype. Like the other programs, it runs every call on the same operands.
pub fn json(filter: &str) {
    for (dtype, rounded, stored) in [("f32", false, Dtype::F32), ("bf16", true, Dtype::Bf16)] {
        let backend: &dyn Backend = &cpu::Cpu::new(rounded);
        for (operation, sizes, task) in tasks(stored).into_iter().filter(|(name, ..)| name.contains(filter)) {
            let mut loaded = task.load_copies(backend, None, 1).expect("it compiles");
            let times = loaded.times(Duration::from_secs(1)).expect("it runs");
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            let (min, median) = (milliseconds(times[0]), milliseconds(times[times.len() / 2]));
            let gflops = task.cost(false).flops as f64 / median / 1e6;
            println!(
                r#"{{"name": "{operation}", "dtype": "{dtype}", "shape": {sizes:?}, "median_ms": {median:.4}, "min_ms": {min:.4}, "gflops": {gflops:.1}}}"#
            );
        }
    }
}
