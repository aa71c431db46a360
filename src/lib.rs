#![doc = include_str!("../README.md")]

pub use adapters::{Adapter, Applied, NewToken};
#[doc(inline)]
pub use backend::devices;
pub use backend::{Backend, Device, Kind, Residency};
pub use controlnet::{ControlKind, ControlNet};
pub use error::{Error, Result};
pub use files::Location;
pub use image::{ControlRecord, FromFile, Image, ImagePrompt, InitialPicture, Origin, Record};
#[cfg(feature = "pictures")]
pub use image::{Format, Metadata, read_metadata};
pub use model::Model;
pub use noise::NoiseKind;
pub use pipeline::{
    Additions, Batch, Control, Footprint, HostTensor, Init, Inputs, Observer, Options, Outline, Pipeline, Prior,
    Repaint, StageName, Step, TextEmbeddings, Times,
};
pub use prompts::{Syntax, encode as encode_prompts};
pub use registry::Caps;
pub use request::Request;
pub use sampler::{Method, Sampler, Spacing};
pub use shape::Shape;
pub use weights::{ModelPaths, Overrides};

// The parts, for the program and for this project's tests and benchmarks. They change without notice.
mod adapters;
#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod check;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod controlnet;
#[doc(hidden)]
pub mod convert;
mod cpu;
#[doc(hidden)]
pub mod demo;
#[doc(hidden)]
pub mod error;
mod files;
#[cfg(feature = "hub")]
mod hub;
#[doc(hidden)]
pub mod image;
#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod noise;
#[doc(hidden)]
pub mod ops;
#[cfg(feature = "pictures")]
#[doc(hidden)]
pub mod output;
#[doc(hidden)]
pub mod picture;
#[doc(hidden)]
pub mod pipeline;
#[doc(hidden)]
pub mod plan;
mod prompts;
#[doc(hidden)]
pub mod registry;
#[doc(hidden)]
pub mod request;
#[doc(hidden)]
pub mod sampler;
#[cfg(feature = "serve")]
mod serve;
#[doc(hidden)]
pub mod shape;
#[doc(hidden)]
pub mod sizes;
#[doc(hidden)]
pub mod synth;
#[doc(hidden)]
pub mod tensor;
#[doc(hidden)]
pub mod tokenizer;
#[doc(hidden)]
pub mod weights;
