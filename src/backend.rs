//! Backends: what turns a plan into something that runs.
//!
//! The interface is five calls, and a new op changes none of them: [`Backend::device`],
//! [`Backend::compile`], [`Program::write`], [`Program::run`] and [`Program::read`].

pub mod cpu;
pub mod devices;
pub mod wgpu;

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::plan::{Plan, Slot};
use crate::registry::{Caps, Kernel, Lang, Launch};

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

/// Every device that is here, each with its best exact kernels, and with nothing
/// but those that any device of its kind can run.
///
/// # Errors
/// If a device is there but does not open.
pub fn exact() -> Result<Vec<Box<dyn Backend>>> {
    let mut all: Vec<Box<dyn Backend>> =
        vec![Box::new(cpu::Cpu::new(false)), Box::new(cpu::Cpu::with_caps(Caps::NONE))];
    let complete = crate::ops::NAMES.iter().all(|op| crate::registry::kernels(Lang::Wgsl).any(|k| k.op == *op));
    for i in 0..wgpu::adapters().len() * usize::from(complete) {
        all.push(Box::new(wgpu::Wgpu::open(i, false, None)?));
        all.push(Box::new(wgpu::Wgpu::with_caps(i, Caps::NONE, None)?));
    }
    Ok(all)
}

/// A device that has what `kernel` needs and no more, so that the registry
/// chooses it wherever it fits; `None` if no such device is here.
///
/// # Errors
/// If the device is there but does not open.
pub fn with_just(kernel: &Kernel) -> Result<Option<Box<dyn Backend>>> {
    let met = |caps: Caps| caps.and(Caps::ROUND_BF16).contains(kernel.needs);
    Ok(match kernel.launch {
        Launch::Cpu(_) if met(cpu::detect()) => Some(Box::new(cpu::Cpu::with_caps(kernel.needs))),
        Launch::Wgsl(_) => match wgpu::adapters().iter().position(|adapter| met(adapter.caps)) {
            Some(i) => Some(Box::new(wgpu::Wgpu::with_caps(i, kernel.needs, None)?)),
            None => None,
        },
        Launch::Cpu(_) => None,
    })
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
