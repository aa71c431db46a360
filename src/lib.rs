//! Stable Cascade, from prompt to picture, on hand-written kernels.

pub mod error;
pub mod image;
pub mod noise;
pub mod request;
pub mod sampler;
pub mod shape;
pub mod tensor;
pub mod tokenizer;
