//! Stable Cascade, from prompt to picture, on hand-written kernels.

pub mod backend;
pub mod check;
pub mod cli;
pub mod cpu;
pub mod error;
pub mod image;
pub mod net;
pub mod noise;
pub mod ops;
pub mod pipeline;
pub mod plan;
pub mod registry;
pub mod request;
pub mod sampler;
pub mod shape;
pub mod synth;
pub mod tensor;
pub mod tokenizer;
pub mod weights;
