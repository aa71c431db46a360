//! Weights of a network that are int8, or become so.

use super::super::narrow::is_narrow;
use super::Checkpoint;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Weight};

impl Checkpoint {
    /// The view of a tensor, whose factors are looked at if it is int8.
    pub(super) fn checked(&self, name: &str, dims: &[usize], view: &Weight) -> Result<Weight> {
        let stored = &self.tensors[name].stored;
        stored.check_factors()?;
        match view.first_non_finite_factor() {
            Some(row) => Err(Error::Tensor {
                path: stored.path().to_owned(),
                name: name.to_owned(),
                expected: "finite values, to be rounded to int8".to_owned(),
                found: format!("NaN or infinity in row {row}"),
            }),
            None => Ok(Weight::new(name, dims.to_vec(), view.parts().to_vec())),
        }
    }

    /// Makes its weights int8 that [the table](is_narrow) says, when they are first used and in memory of their own.
    pub fn quantise(&mut self) {
        let kind = self.kind;
        self.tensors.iter_mut().for_each(|(name, tensor)| tensor.narrow = is_narrow(kind, name, &[]));
    }

    /// Whether some of its weights are int8.
    pub fn is_int8(&self) -> bool {
        self.tensors.values().any(|tensor| tensor.narrow || tensor.stored.float() == Some(Dtype::I8))
    }
}
