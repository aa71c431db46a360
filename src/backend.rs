//! Backends: what turns a plan into something that runs.
//!
//! The interface is eight calls, and a new op changes none of them: [`Backend::device`],
//! [`Backend::free_bytes`], [`Backend::compile_with`], [`Program::residency`], [`Program::write`],
//! [`Program::run`], [`Program::read`] and, to measure, [`Program::time`].

pub mod cpu;
pub mod cuda;
pub mod devices;
mod operand;
mod weights;
pub mod wgpu;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Result;
use crate::plan::{Plan, Slot};
use crate::registry::{self, Caps, Kernel, Lang, Target};

/// What a device is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The host's cores.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A program on the host's cores that behaves like a GPU.
    Software,
}

/// What a backend found out about its device.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// A name that people know it by.
    pub name: String,
    /// Language of its kernels.
    pub lang: Lang,
    /// What it is made of.
    pub kind: Kind,
    /// What it can do.
    pub caps: Caps,
    /// SMs of an NVIDIA GPU that CUDA reaches; 0 for other devices, whose kernels do not ask.
    pub sms: usize,
    /// Memory that could be had when it was opened, in bytes.
    pub free_bytes: u64,
    /// What was found wrong when it was opened, and what is not used because of that.
    pub faults: Vec<String>,
    /// Whether weights are copied into that memory; the CPU reads them where the file is mapped.
    pub copies_weights: bool,
}

impl Device {
    /// What the registry chooses kernels for.
    pub fn target(&self) -> Target {
        Target { lang: self.lang, caps: self.caps, sms: self.sms }
    }

    /// Whether some kernels round GEMM inputs to bf16 or f16: it is allowed, and the device has what they need.
    pub fn rounds(&self) -> bool {
        self.caps.contains(self.lang.rounding()) && self.could_round()
    }

    /// Whether some kernels would round GEMM inputs to the [16-bit format](Lang::rounding) of their language if they might.
    pub fn could_round(&self) -> bool {
        let (to, allowed) = (self.lang.rounding(), self.caps.and(self.lang.rounding()));
        registry::kernels(self.lang).any(|kernel| kernel.needs.contains(to) && allowed.contains(kernel.needs))
    }

    /// Whether [GEMM inputs](crate::ops::Element::GemmInput) are stored in bf16: where rounding is allowed, and
    /// most ops are bound by memory.
    pub fn stores_bf16(&self) -> bool {
        self.rounds() && self.lang == Lang::Cuda
    }
}

/// Where weights are while a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// Read where the file is mapped.
    Mapped,
    /// All of them stay in the device's memory, unless a program compiled later has to make them give way.
    All,
    /// They are uploaded for the [span](Plan::spans) that is about to run, and other weights give way where there is no room.
    Turns,
}

/// The most that something ever was.
#[derive(Debug, Default)]
struct Peak(AtomicU64);

impl Peak {
    fn note(&self, now: u64) {
        self.0.fetch_max(now, Ordering::Relaxed);
    }

    /// `None` if nothing was noted.
    fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&most| most > 0)
    }
}

/// Software that runs plans on a device. Several programs may be compiled at the same time; they share weights.
///
/// One thread owns a device, but it need not be the one that opened it: a backend and its programs may be moved to
/// another thread.
pub trait Backend: Send {
    /// The device.
    fn device(&self) -> &Device;

    /// Memory that can be had now, in bytes: what is free, and what weights take, since they make room. Activations of
    /// compiled programs are not included, and other users of the device take from it too.
    ///
    /// # Errors
    /// If the device is lost.
    fn free_bytes(&self) -> Result<u64> {
        Ok(self.device().free_bytes)
    }

    /// The most of the device's own memory that was taken at once since it was opened, in bytes; `None`
    /// where that is not known, or the device uses the host's.
    fn peak_bytes(&self) -> Option<u64> {
        None
    }

    /// Makes everything that running `plan` needs, each node with the kernel of its place in `kernels`.
    fn compile_with(&self, plan: Arc<Plan>, kernels: &[&'static Kernel]) -> Result<Box<dyn Program>>;

    /// The same with the kernel that the registry chooses for each node.
    fn compile(&self, plan: Arc<Plan>) -> Result<Box<dyn Program>> {
        let target = self.device().target();
        let choose = |node| registry::choose(node, &plan, target).0;
        let kernels: Vec<_> = plan.nodes.iter().map(choose).collect();
        self.compile_with(plan, &kernels)
    }
}

/// A compiled plan with its memory.
pub trait Program: Send {
    /// Where its weights are while it runs. Nothing has moved before the first run.
    fn residency(&self) -> Residency;

    /// Fills a slot from the host, 4 bytes an element.
    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<()>;

    /// Runs some nodes, usually [those of a segment](Plan::nodes_of). Neither allocates nor
    /// compiles nor reads back.
    fn run(&mut self, nodes: Range<usize>) -> Result<()>;

    /// Runs the nodes as [`run`](Self::run) does, each once, and says how long each took on the
    /// device. To measure: the whole takes longer, for it waits and reads back.
    fn time(&mut self, nodes: Range<usize>) -> Result<Vec<Duration>>;

    /// Copies a slot to the host, 4 bytes an element.
    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Element, Function, Linear};
    use crate::plan::{Recorder, Source};
    use crate::shape::Shape;
    use crate::tensor::Weight;

    /// Writes noise to `input`, runs everything and reads `out`.
    fn run(program: &mut dyn Program, plan: &Plan, input: Slot, out: Slot) -> Vec<f32> {
        let values: Vec<f32> = (0..input.shape.elements()).map(|j| (j % 13) as f32 / 13.0).collect();
        program.write(input, bytemuck::cast_slice(&values)).unwrap();
        program.run(0..plan.nodes.len()).unwrap();
        let mut result = vec![0f32; out.shape.elements()];
        program.read(out, bytemuck::cast_slice_mut(&mut result)).unwrap();
        result
    }

    #[test]
    fn a_device_and_its_programs_may_go_to_another_thread() {
        let mut rec = Recorder::new();
        let input = rec.input(Shape::matrix(4, 64), Element::F32);
        let weight = (0..64 * 64).map(|j| (j % 97) as f32 / 400.0 - 0.1).collect();
        let mut inputs = vec![Some(Source::Slot(input)), Some(rec.weight(Weight::from_f32("w", &[64, 64], weight)))];
        inputs.resize(8, None);
        let out = rec.node("layer", Linear { function: Function::Silu }, &inputs).unwrap();
        rec.keep(out);
        let plan = Arc::new(rec.finish());
        let open =
            |(choice, _)| devices::open(choice, devices::wanted(devices::Rounding::None, Caps::NONE), None).unwrap();
        for device in devices::all().into_iter().map(open).chain(cuda::emulated(Caps::NONE, false)) {
            let name = device.device().name.clone();
            let mut program = device.compile(plan.clone()).unwrap();
            let want = run(program.as_mut(), &plan, input, out);
            let there = plan.clone();
            let moved = std::thread::spawn(move || {
                let got = run(program.as_mut(), &there, input, out);
                let another = run(device.compile(there.clone()).unwrap().as_mut(), &there, input, out);
                (got, another, program, device)
            });
            let (got, another, mut program, device) = moved.join().unwrap();
            assert_eq!((&got, &another), (&want, &want), "{name}");
            // And back, the device first to go.
            drop(device);
            assert_eq!(run(program.as_mut(), &plan, input, out), want, "{name}");
        }
    }
}
