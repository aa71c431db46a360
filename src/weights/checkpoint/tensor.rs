//! One tensor of a network.

use std::sync::OnceLock;

use super::super::file::Stored;
use crate::tensor::Weight;

/// A tensor, and its view, which is created on first use.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) stored: Stored,
    pub(super) transposed: bool,
    /// Whether the view is to be a copy of int8.
    pub(super) narrow: bool,
    /// Rows that are not in the file and follow those that are.
    pub(super) more: Option<Weight>,
    pub(super) weight: OnceLock<Option<Weight>>,
}

impl Tensor {
    /// Whether it can be used as a weight: a transposed one must be a matrix.
    pub(super) fn is_usable(&self) -> bool {
        self.stored.float().is_some() && (!self.transposed || self.dims().len() <= 2)
    }

    /// The dimensions of the view. Of a transposed one, those of 1 are left out.
    pub(super) fn dims(&self) -> Vec<usize> {
        let mut dims: Vec<usize> = match self.transposed {
            true => self.stored.dims.iter().rev().copied().filter(|&dim| dim != 1).collect(),
            false => self.stored.dims.clone(),
        };
        if let (Some(more), Some(rows)) = (&self.more, dims.first_mut()) {
            *rows += more.dims[0];
        }
        dims
    }

    pub(super) fn view(&self, name: &str) -> Option<Weight> {
        if !self.is_usable() {
            return None;
        }
        let weight = Weight::new(name, self.stored.dims.clone(), vec![self.stored.part()?]);
        match self.dims()[..] {
            [columns, rows] if self.transposed => {
                let values = weight.to_f32();
                let flipped = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
                Some(Weight::from_f32(name, &[columns, rows], flipped))
            }
            [_, _, ..] if self.narrow => Some(weight.to_int8()),
            _ => match &self.more {
                Some(more) => Some(Weight::stack(&[weight, more.clone()])),
                None => Some(weight),
            },
        }
    }
}
