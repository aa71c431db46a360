//! Kernels against the definition of their op, on the op's cases.

use std::fmt;

use super::cases::{self, One, Stored};
use crate::backend::Backend;
use crate::error::Result;
use crate::registry::{self, Kernel};
use crate::shape::Shape;

/// How many of an op's cases a kernel is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Every case, in every way that it can be stored.
    All,
    /// Each case in one way, without the large ones, which are for the grid of a launch.
    Quick,
}

/// An element of a result that is not what the op's definition says.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Number of the case among all cases.
    pub case: usize,
    /// How it is stored.
    pub stored: Stored,
    /// Shape of the result.
    pub shape: Shape,
    /// The element that differs most: a number in the order of memory.
    pub at: usize,
    /// What the kernel made of it, and what it should have.
    pub got: f32,
    /// The definition's value.
    pub want: f32,
    /// `|got − want| / (1 + |want|)`.
    pub error: f32,
    /// The largest error that is allowed.
    pub allowed: f32,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { case, stored, shape, at, got, want, error, allowed } = self;
        let (c, w, h, n) =
            (at % shape.c, at / shape.c % shape.w, at / shape.c / shape.w % shape.h, at / shape.c / shape.w / shape.h);
        write!(f, "case {case} ({stored}): element [{n}, {h}, {w}, {c}] of {shape} is {got}, expected {want}; ")?;
        write!(f, "error {error:.2e} at {at}, allowed {allowed:.0e}")
    }
}

/// What came of the cases of a kernel.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// How many ran.
    pub ran: usize,
    /// The element of each that differs most, where it differs by more than is allowed.
    pub differences: Vec<Difference>,
}

/// Runs a kernel on the cases of its op that it can serve on this device.
///
/// # Errors
/// If it does not compile, a case does not fit into the device's memory, or the device fails.
pub fn row(kernel: &'static Kernel, backend: &dyn Backend, which: Which) -> Result<Checked> {
    let mut checked = Checked::default();
    let device = backend.device();
    for (number, case) in cases::of(kernel.op) {
        let large = cases::is_large(case);
        if large && which == Which::Quick {
            continue;
        }
        for stored in Stored::all(case).filter(|stored| stored.is_on(device)) {
            let Some(one) = One::of(number, stored) else { continue };
            let plan = one.plan();
            if !registry::admissible(&plan.nodes[0], plan, device.target()).any(|row| std::ptr::eq(row, kernel)) {
                continue;
            }
            let got = one.run(backend.compile_with(plan.clone(), &[kernel])?)?;
            checked.ran += 1;
            checked.differences.extend(one.difference(&got, kernel));
            if large || which == Which::Quick {
                break;
            }
        }
    }
    Ok(checked)
}
