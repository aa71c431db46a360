//! Stable Cascade, from prompt to picture, on hand-written kernels.

pub mod cpu;
pub mod error;
pub mod shape;
pub mod tensor;
