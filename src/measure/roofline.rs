//! What a device can do at most, and how much of it a kernel reaches.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::task::{Operand, Task};
use crate::backend::{Backend, Kind};
use crate::error::Result;
use crate::ops::{Add, Cost, Element, Function, Linear, Scale};
use crate::shape::Shape;
use crate::tensor::Dtype;

/// How long each kernel that may reach a ceiling is measured.
const BUDGET: Duration = Duration::from_millis(500);

/// What a device was measured to do at most: the best of many calls.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// Memory read and written by copying a large tensor, or by adding two if that is faster.
    pub bytes_per_second: f64,
    /// Work of a large matrix product of f32 activations and bf16 weights, by the fastest of the kernels.
    pub flops_per_second: f64,
}

/// What keeps a kernel from being faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Moving data.
    Memory,
    /// Calculating.
    Compute,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // With padding, unlike `write!`.
        f.pad(match self {
            Limit::Memory => "memory",
            Limit::Compute => "compute",
        })
    }
}

/// The least time that work could take, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// What takes that time.
    pub limit: Limit,
    /// The time, seconds.
    pub seconds: f64,
}

impl Ceilings {
    /// Measures a device, a few seconds.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(backend: &dyn Backend) -> Result<Self> {
        let device = backend.device();
        // Large enough to fill the device, small enough that slow ones finish soon.
        let (side, mib) = match device.kind {
            Kind::Gpu => (4096, 64),
            Kind::Cpu => (2048, 64),
            Kind::Software => (512, 16),
        };
        // Of the fastest row, whichever would be chosen.
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

    /// The least time for this work.
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

/// Bytes read and written a second when the host's cores copy `bytes` of memory, at best.
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
        // Between what anything that runs this can do and what nothing can.
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
