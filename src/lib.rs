//! Stable Cascade, from prompt to picture, on hand-written kernels.

pub mod backend;
pub mod error;
pub mod ops;
pub mod plan;
pub mod registry;
pub mod shape;
pub mod tensor;
