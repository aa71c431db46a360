//! Backends: what turns a plan into something that runs.
//!
//! The interface is five calls, and a new op changes none of them: [`Backend::device`],
//! [`Backend::compile`], [`Program::write`], [`Program::run`] and [`Program::read`].

pub mod cpu;

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::plan::{Plan, Slot};
use crate::registry::{Caps, Kernel, Lang, Launch};

/// What a backend found out about its device.
#[derive(Debug, Clone)]
pub struct Device {
    /// A name that people know it by.
    pub name: String,
    /// Language of its kernels.
    pub lang: Lang,
    /// What it can do.
    pub caps: Caps,
    /// Memory that activations may take, in bytes.
    pub free_bytes: u64,
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

/// Every device that is here, each with its best exact kernels, and with nothing
/// but those that any device of its kind can run.
pub fn exact() -> Vec<Box<dyn Backend>> {
    vec![Box::new(cpu::Cpu::new(false)), Box::new(cpu::Cpu::with_caps(Caps::NONE))]
}

/// A device that has what `kernel` needs and no more, so that the registry
/// chooses it wherever it fits; `None` if no such device is here.
pub fn with_just(kernel: &Kernel) -> Option<Box<dyn Backend>> {
    match kernel.launch {
        Launch::Cpu(_) => {
            let has = cpu::detect().and(Caps::ROUND_BF16);
            has.contains(kernel.needs).then(|| Box::new(cpu::Cpu::with_caps(kernel.needs)) as Box<dyn Backend>)
        }
    }
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
