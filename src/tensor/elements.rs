//! The elements of a stored tensor, whatever their type.

use std::ops::Range;

use half::{bf16, f16};

use super::Int8;

/// Elements of a stored tensor, read in place.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// Integers with a factor for each row.
    I8(Int8<'a>),
}

impl<'a> Elements<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Elements::F32(x) => x.len(),
            Elements::Bf16(x) => x.len(),
            Elements::F16(x) => x.len(),
            Elements::I8(x) => x.values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A range of the elements.
    pub fn slice(&self, range: Range<usize>) -> Elements<'a> {
        match *self {
            Elements::F32(x) => Elements::F32(&x[range]),
            Elements::Bf16(x) => Elements::Bf16(&x[range]),
            Elements::F16(x) => Elements::F16(&x[range]),
            Elements::I8(x) => Elements::I8(x.slice(range)),
        }
    }

    /// Element `i` as f32: its exact value, or of 8 bits the product with its factor, rounded.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Elements::F32(x) => x[i],
            Elements::Bf16(x) => x[i].to_f32(),
            Elements::F16(x) => x[i].to_f32(),
            Elements::I8(x) => x.get(i),
        }
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.first_non_finite().is_none()
    }

    /// The index of the first NaN or infinity.
    pub fn first_non_finite(&self) -> Option<usize> {
        match self {
            Elements::F32(x) => x.iter().position(|v| !v.is_finite()),
            Elements::F16(x) => x.iter().position(|v| !v.is_finite()),
            Elements::Bf16(x) => x.iter().position(|v| !v.is_finite()),
            Elements::I8(x) => {
                let mut before = 0;
                x.rows().find_map(|(scale, row)| {
                    before += row.len();
                    (!scale.is_finite()).then(|| before - row.len())
                })
            }
        }
    }

    /// Appends all elements to `out`, as [`get`](Self::get) has them.
    pub fn extend_f32(&self, out: &mut Vec<f32>) {
        match self {
            Elements::F32(x) => out.extend_from_slice(x),
            Elements::Bf16(x) => out.extend(x.iter().map(|v| v.to_f32())),
            Elements::F16(x) => out.extend(x.iter().map(|v| v.to_f32())),
            Elements::I8(x) => {
                x.rows().for_each(|(scale, row)| out.extend(row.iter().map(|&v| f32::from(v) * scale)));
            }
        }
    }
}
