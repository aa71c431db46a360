//! Backends: what turns a plan into something that runs.
//!
//! The interface is five calls, and a new op changes none of them: [`Backend::device`],
//! [`Backend::compile`], [`Program::write`], [`Program::run`] and [`Program::read`].

pub mod cpu;
pub mod cuda;
pub mod devices;
mod operand;
mod weights;
pub mod wgpu;

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::plan::{Plan, Slot};
use crate::registry::{Caps, Lang};

/// What a device is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host's cores.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A program on the host's cores that behaves like a GPU.
    Software,
}

/// What a backend found out about its device.
#[derive(Debug, Clone)]
pub struct Device {
    /// A name that people know it by.
    pub name: String,
    /// Language of its kernels.
    pub lang: Lang,
    /// What it is made of.
    pub kind: Kind,
    /// What it can do.
    pub caps: Caps,
    /// Memory that can be had, in bytes; the largest number where that is not known.
    pub free_bytes: u64,
    /// Whether weights are copied into that memory; the CPU reads them where the file is mapped.
    pub copies_weights: bool,
}

impl Device {
    /// Whether kernels may round factors of products to bf16.
    pub fn rounds(&self) -> bool {
        self.caps.contains(Caps::ROUND_BF16)
    }
}

/// Software that runs plans on a device.
pub trait Backend {
    /// The device.
    fn device(&self) -> &Device;

    /// Chooses a kernel for each node, and makes everything that running needs.
    fn compile(&self, plan: Arc<Plan>) -> Result<Box<dyn Program>>;
}

/// A compiled plan with its memory.
pub trait Program {
    /// Fills a slot from the host, 4 bytes an element.
    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<()>;

    /// Runs some nodes, usually a [phase](Plan::phase). Neither allocates nor
    /// compiles nor reads back.
    fn run(&mut self, nodes: Range<usize>) -> Result<()>;

    /// Copies a slot to the host, 4 bytes an element.
    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()>;
}
