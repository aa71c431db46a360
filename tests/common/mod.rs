//! Helpers that several test programs use.
#![allow(dead_code, reason = "no test program uses all of them")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cascade_rt::backend::cpu::{self, Cpu};
use cascade_rt::backend::wgpu::{self, Wgpu};
use cascade_rt::backend::{Backend, Program, cuda};
pub use cascade_rt::check::cases::golden;
use cascade_rt::net::tensors::Table;
use cascade_rt::plan::{Recorder, Slot};
use cascade_rt::registry::{Caps, Kernel, Launch};
use cascade_rt::shape::Shape;
use cascade_rt::weights::Checkpoint;
use safetensors::{Dtype, tensor::TensorView};

/// The `k`-th golden input, in NCHW order.
pub fn golden_input(k: u32, len: usize) -> Vec<f32> {
    (0..len as u32).map(|j| golden(900_000 + k, j) as f32).collect()
}

/// A checkpoint with golden values, which is written to a file in `dir` and opened.
pub fn golden_checkpoint(mut table: Table, dir: &Path) -> Checkpoint {
    table.sort();
    let fill = |(i, (name, dims)): (usize, &(String, Vec<usize>))| {
        let last = name.rsplit('.').next().unwrap();
        let fan_in: usize = dims.iter().skip(1).product();
        let value = |j| {
            let u = golden(i as u32, j);
            let v = match last {
                "running_var" => 1.0 + 0.5 * u,
                "gamma" | "beta" | "gammas" | "bias" | "running_mean" | "class_embedding" => 0.2 * u,
                _ if dims.len() == 1 => 1.0 + 0.2 * u,
                _ => u * (3.0 / fan_in as f64).sqrt(),
            };
            v as f32
        };
        (0..dims.iter().product::<usize>() as u32).map(value).collect::<Vec<f32>>()
    };
    let values: Vec<Vec<f32>> = table.iter().enumerate().map(fill).collect();
    let views = table.iter().zip(&values).map(|((name, dims), values)| {
        (name.clone(), TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    let path = dir.join("golden.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    Checkpoint::open(&path).unwrap()
}

/// `[n, c, h, w]` → `[n, h, w, c]`.
pub fn to_nhwc(x: &[f32], s: Shape) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for (i, &v) in x.iter().enumerate() {
        let (w, h, c, n) = (i % s.w, i / s.w % s.h, i / s.w / s.h % s.c, i / s.w / s.h / s.c);
        y[((n * s.h + h) * s.w + w) * s.c + c] = v;
    }
    y
}

/// `[n, h, w, c]` → `[n, c, h, w]`.
pub fn to_nchw(x: &[f32], s: Shape) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for (i, &v) in x.iter().enumerate() {
        let (c, w, h, n) = (i % s.c, i / s.c % s.w, i / s.c / s.w % s.h, i / s.c / s.w / s.h);
        y[((n * s.c + c) * s.h + h) * s.w + w] = v;
    }
    y
}

/// A plan to be run on several backends, and the inputs that the host writes.
pub struct Bench {
    pub rec: Recorder,
    writes: Vec<(Slot, Vec<u8>)>,
}

impl Bench {
    pub fn new() -> Self {
        Self { rec: Recorder::new(), writes: Vec::new() }
    }

    /// An input with values in NHWC order.
    pub fn input(&mut self, shape: Shape, values: &[f32]) -> Slot {
        let slot = self.rec.input(shape, cascade_rt::ops::Element::F32);
        self.writes.push((slot, bytemuck::cast_slice(values).to_vec()));
        slot
    }

    /// An input with values in NCHW order.
    pub fn input_nchw(&mut self, shape: Shape, values: &[f32]) -> Slot {
        self.input(shape, &to_nhwc(values, shape))
    }

    /// An input of indices.
    pub fn index(&mut self, shape: Shape, values: &[u32]) -> Slot {
        let slot = self.rec.input(shape, cascade_rt::ops::Element::U32);
        self.writes.push((slot, bytemuck::cast_slice(values).to_vec()));
        slot
    }

    /// Runs the plan on every backend and returns the name and outputs of each.
    pub fn run(self, outputs: &[Slot]) -> Vec<(String, Vec<Vec<f32>>)> {
        self.run_on(&backends(), outputs)
    }

    /// Runs the plan on these backends.
    pub fn run_on(mut self, backends: &[Box<dyn Backend>], outputs: &[Slot]) -> Vec<(String, Vec<Vec<f32>>)> {
        outputs.iter().for_each(|slot| self.rec.keep(*slot));
        let plan = Arc::new(self.rec.finish());
        let mut results = Vec::new();
        for backend in backends {
            let mut program: Box<dyn Program> = backend.compile(plan.clone()).unwrap();
            for (slot, bytes) in &self.writes {
                program.write(*slot, bytes).unwrap();
            }
            program.run(0..plan.nodes.len()).unwrap();
            let read = |slot: &Slot| {
                let mut values = vec![0f32; slot.shape.elements()];
                program.read(*slot, bytemuck::cast_slice_mut(&mut values)).unwrap();
                values
            };
            let outputs = outputs.iter().map(read).collect();
            results.push((backend.device().name.clone(), outputs));
        }
        results
    }
}

/// Every device of this machine twice: with its best kernels that compute in f32, and with only the kernels that any device
/// of its kind can run.
pub fn exact() -> Vec<Box<dyn Backend>> {
    let mut all: Vec<Box<dyn Backend>> = vec![Box::new(Cpu::new(false)), Box::new(Cpu::with_caps(Caps::NONE))];
    for i in 0..wgpu::adapters().len() {
        all.push(Box::new(Wgpu::open(i, false, None).unwrap()));
        all.push(Box::new(Wgpu::with_caps(i, Caps::NONE, None).unwrap()));
    }
    for (i, _) in cuda::usable() {
        all.push(cuda::open(i, false).unwrap());
        all.push(cuda::with_caps(i, Caps::NONE).unwrap());
    }
    all.extend(cuda::emulated(Caps::NONE, false));
    all
}

/// A device that offers only the capabilities that `kernel` needs, and `more`, so that the registry chooses that kernel
/// wherever it fits. `None` if this machine has no such device. Shaders in `shader_dir` replace built-in ones of the same name.
pub fn with_just(kernel: &Kernel, more: Caps, shader_dir: Option<&Path>) -> Option<Box<dyn Backend>> {
    let needs = kernel.needs.and(more);
    let met = |caps: Caps| caps.and(Caps::ROUNDING).contains(needs);
    match kernel.launch {
        Launch::Cpu(_) => met(cpu::detect()).then(|| Box::new(Cpu::with_caps(needs)) as Box<dyn Backend>),
        Launch::Wgsl(_) => {
            let i = wgpu::adapters().iter().position(|adapter| met(adapter.caps))?;
            Some(Box::new(Wgpu::with_caps(i, needs, shader_dir).unwrap()))
        }
        Launch::Cuda(_) => {
            let caps = needs.and(Caps::DEPENDENT_LAUNCH); // this is not a requirement of kernels but a way to launch them
            match cuda::usable().iter().find(|(_, device)| met(device.caps)) {
                Some((i, _)) => Some(cuda::with_caps(*i, caps).unwrap()),
                None => cuda::emulated(caps, true),
            }
        }
    }
}

/// Every backend of this machine that computes in f32, with every instruction set, and the reference implementations.
pub fn backends() -> Vec<Box<dyn Backend>> {
    let mut all = exact();
    all.push(Box::new(Cpu::reference()));
    all
}

/// `‖got − want‖ / ‖want‖`.
pub fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let sum = |f: &dyn Fn(usize) -> f64| (0..got.len()).map(f).sum::<f64>().sqrt();
    let difference = sum(&|i| (f64::from(got[i]) - f64::from(want[i])).powi(2));
    difference / sum(&|i| f64::from(want[i]).powi(2))
}

/// The folder of the checkout, which has fixtures and models. `CASCADE_ROOT` overrides it for tests that run on another
/// machine than they were built on.
pub fn root() -> PathBuf {
    std::env::var_os("CASCADE_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The program under test, or `CASCADE_PROGRAM`, without environment variables that would set its flags.
#[cfg(feature = "cli")]
pub fn program() -> std::process::Command {
    let built = || env!("CARGO_BIN_EXE_cascade-rt").into();
    let mut command = std::process::Command::new(std::env::var_os("CASCADE_PROGRAM").unwrap_or_else(built));
    let flags = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("CASCADE_"));
    flags.for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// Whether `CASCADE_REQUIRE`, a list of what this machine must have, contains `name`. A test that would be skipped must then
/// fail.
pub fn required(name: &str) -> bool {
    std::env::var("CASCADE_REQUIRE").unwrap_or_default().split(',').any(|required| required == name)
}
