//! Stable Cascade, from prompt to picture, on hand-written kernels.

pub mod error;
pub mod net;
pub mod shape;
pub mod synth;
pub mod tensor;
pub mod weights;
