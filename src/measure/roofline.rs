//! A roofline model: measures a device's memory bandwidth and arithmetic throughput, and derives the shortest time
//! that an op can take.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::task::{Operand, Task};
use crate::backend::{Backend, Kind};
use crate::error::Result;
use crate::ops::{Add, Cost, Element, Function, Linear, Scale};
use crate::shape::Shape;
use crate::tensor::Dtype;

/// How long each candidate kernel is measured.
const BUDGET: Duration = Duration::from_millis(500);

/// The highest rates that a device reached in many calls.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// Bytes read and written per second when a large tensor is copied, or when two are added if that is faster.
    pub bytes_per_second: f64,
    /// FLOP/s of a large GEMM of f32 activations and bf16 weights, with the fastest kernel.
    pub flops_per_second: f64,
}

/// The resource that limits a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Memory bandwidth.
    Memory,
    /// Arithmetic throughput.
    Compute,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Unlike `write!`, `pad` respects the width of the format string.
        f.pad(match self {
            Limit::Memory => "memory",
            Limit::Compute => "compute",
        })
    }
}

/// The shortest time that an op can take, and which resource limits it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The limiting resource.
    pub limit: Limit,
    /// The time in seconds.
    pub seconds: f64,
}

impl Ceilings {
    /// Measures a device, which takes a few seconds.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(backend: &dyn Backend) -> Result<Self> {
        let device = backend.device();
        // Large enough to use the whole device, small enough that slow devices finish soon.
        let (side, mib) = match device.kind {
            Kind::Gpu | Kind::Integrated => (4096, 64),
            Kind::Cpu => (2048, 64),
            Kind::Software => (512, 16),
        };
        // The time of the fastest kernel, which need not be the one that would be chosen.
        let seconds = |task: &Task| {
            task.kernels(device.target()).into_iter().try_fold(f64::INFINITY, |least, kernel| {
                let times = task.load(backend, Some(kernel))?.times(BUDGET)?;
                Ok(least.min(times[0].as_secs_f64()))
            })
        };
        let rate = |task: &Task| Ok(task.cost(false).bytes as f64 / seconds(task)?);
        let x = Some(Operand::Slot(Shape::matrix(mib, 1 << 18), Element::F32));
        let add = Task { op: Add.into(), inputs: vec![x.clone(), x.clone()], result: Element::F32 };
        let copied = match device.kind {
            Kind::Cpu => host_copy(mib << 20),
            _ => rate(&Task { op: Scale { factor: 1.0 }.into(), inputs: vec![x], result: Element::F32 })?,
        };
        let x = Some(Operand::Slot(Shape::matrix(side, side), Element::F32));
        let weight = Some(Operand::Weight(vec![side, side], vec![(side * side, Dtype::Bf16)]));
        let mut inputs = vec![x, weight];
        inputs.resize(8, None);
        let linear = Task { op: Linear { function: Function::Identity }.into(), inputs, result: Element::F32 };
        Ok(Self {
            bytes_per_second: copied.max(rate(&add)?),
            flops_per_second: linear.cost(false).flops as f64 / seconds(&linear)?,
        })
    }

    /// The shortest time in which the device can do this work.
    pub fn bound(&self, cost: Cost) -> Bound {
        let memory = cost.bytes as f64 / self.bytes_per_second;
        let compute = cost.flops as f64 / self.flops_per_second;
        match compute > memory {
            true => Bound { limit: Limit::Compute, seconds: compute },
            false => Bound { limit: Limit::Memory, seconds: memory },
        }
    }
}

impl std::fmt::Display for Ceilings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (gigabytes, gflops) = (self.bytes_per_second / 1e9, self.flops_per_second / 1e9);
        write!(f, "{gigabytes:.1} GB/s (copy), {gflops:.0} GFLOP/s (large linear)")
    }
}

/// The highest rate, in bytes read and written per second, at which the host's cores copy `bytes` of memory.
fn host_copy(bytes: usize) -> f64 {
    const CHUNK: usize = 1 << 20;
    let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
    let begin = Instant::now();
    let mut least = f64::INFINITY;
    while begin.elapsed() < BUDGET {
        let start = Instant::now();
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
        least = least.min(start.elapsed().as_secs_f64());
        std::hint::black_box(&mut to);
    }
    2.0 * bytes as f64 / least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_those_of_the_device() {
        let ceilings = Ceilings::measure(&crate::backend::cpu::Cpu::new(false)).unwrap();
        // Any machine that can run the test reaches the lower bounds, and none reaches the upper ones.
        assert!((1e8..1e13).contains(&ceilings.bytes_per_second), "{ceilings}");
        assert!((1e8..1e15).contains(&ceilings.flops_per_second), "{ceilings}");
    }

    #[test]
    fn the_slower_of_two_ceilings_binds() {
        let ceilings = Ceilings { bytes_per_second: 100.0, flops_per_second: 1000.0 };
        let bound = ceilings.bound(Cost { flops: 500, bytes: 100 });
        assert_eq!(bound, Bound { limit: Limit::Memory, seconds: 1.0 });
        let bound = ceilings.bound(Cost { flops: 5000, bytes: 100 });
        assert_eq!(bound, Bound { limit: Limit::Compute, seconds: 5.0 });
    }
}
