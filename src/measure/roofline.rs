//! What a device can do at most, and how much of it a kernel reaches.

use std::time::Duration;

use serde::Serialize;

use super::task::{Operand, Task};
use crate::backend::{Backend, Kind};
use crate::error::Result;
use crate::ops::{Add, Cost, Element, Function, Linear};
use crate::shape::Shape;
use crate::tensor::Dtype;

/// How long each ceiling is measured.
const BUDGET: Duration = Duration::from_secs(1);

/// What a device was measured to do at most: the best of many calls.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// Memory read and written by adding two large tensors.
    pub bytes_per_second: f64,
    /// Work of a large matrix product of f32 activations and bf16 weights.
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
    /// Measures a device with the kernels that it would use, two seconds.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(backend: &dyn Backend) -> Result<Self> {
        // Large enough to fill the device, small enough that slow ones finish soon.
        let (side, mib) = match backend.device().kind {
            Kind::Gpu => (4096, 64),
            Kind::Cpu => (2048, 64),
            Kind::Software => (512, 16),
        };
        let x = Some(Operand::Slot(Shape::matrix(mib, 1 << 18), Element::F32));
        let add = Task { op: Add.into(), inputs: vec![x.clone(), x], result: Element::F32 };
        let x = Some(Operand::Slot(Shape::matrix(side, side), Element::F32));
        let weight = Some(Operand::Weight(vec![side, side], vec![(side * side, Dtype::Bf16)]));
        let mut inputs = vec![x, weight];
        inputs.resize(8, None);
        let linear = Task { op: Linear { function: Function::Identity }.into(), inputs, result: Element::F32 };
        let seconds = |task: &Task| Ok(task.load(backend, None)?.times(BUDGET)?[0].as_secs_f64());
        Ok(Self {
            bytes_per_second: add.cost(false).bytes as f64 / seconds(&add)?,
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
        write!(f, "{gigabytes:.1} GB/s (add), {gflops:.0} GFLOP/s (large linear)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_two_ceilings_binds() {
        let ceilings = Ceilings { bytes_per_second: 100.0, flops_per_second: 1000.0 };
        let bound = ceilings.bound(Cost { flops: 500, bytes: 100 });
        assert_eq!(bound, Bound { limit: Limit::Memory, seconds: 1.0 });
        let bound = ceilings.bound(Cost { flops: 5000, bytes: 100 });
        assert_eq!(bound, Bound { limit: Limit::Compute, seconds: 5.0 });
    }
}
