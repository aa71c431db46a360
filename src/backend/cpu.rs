//! The CPU backend: walks the nodes and calls a function for each.

pub(crate) mod memory;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Backend, Device, Kind, Program, Residency};
use crate::cpu::Isa;
use crate::cpu::call::{Call, Kernel, MAX_OPERANDS, REFERENCE};
use crate::error::Result;
use crate::ops::Element;
use crate::plan::{Plan, Slot, Source};
use crate::registry::{self, Caps, Lang, Launch};
use crate::tensor::{Data, Tensor};

/// The host's cores.
#[derive(Debug)]
pub struct Cpu {
    device: Device,
    reference: bool,
}

impl Cpu {
    /// The CPU with everything it has; GEMM inputs may be rounded to bf16 if
    /// `round_bf16` is set and the CPU is faster for it. What meets int8 weights is rounded to int8.
    pub fn new(round_bf16: bool) -> Self {
        let caps = detect().and(Caps::ROUND_INT8);
        Self::with_caps(if round_bf16 { caps.and(Caps::ROUND_BF16) } else { caps })
    }

    /// The CPU running the ops' own definitions: right and slow.
    pub fn reference() -> Self {
        Self { reference: true, ..Self::new(false) }
    }

    /// The CPU with the capabilities given; those that it lacks are left out, and rounding to bf16 where it has no
    /// instructions for that.
    pub fn with_caps(caps: Caps) -> Self {
        let caps = caps.common(detect().and(Caps::ROUND_BF16).and(Caps::ROUND_INT8));
        let exact = if caps.contains(Caps::AVX512_BF16) { Caps::NONE } else { Caps::ROUND_BF16 };
        let device = Device {
            name: cpu_name(),
            lang: Lang::Cpu,
            kind: Kind::Cpu,
            caps: caps.without(exact),
            sms: 0,
            free_bytes: memory::available(),
            faults: Vec::new(),
            copies_weights: false,
        };
        Self { device, reference: false }
    }
}

/// What the CPU that runs this can do.
pub fn detect() -> Caps {
    let caps = [
        (Isa::Avx2, Caps::AVX2),
        (Isa::Avx512, Caps::AVX512),
        (Isa::Avx512Bf16, Caps::AVX512_BF16),
        (Isa::AvxVnni, Caps::AVX_VNNI),
        (Isa::Avx512Vnni, Caps::AVX512_VNNI),
    ];
    caps.into_iter().filter(|(isa, _)| isa.available()).fold(Caps::NONE, |all, (_, caps)| all.and(caps))
}

fn cpu_name() -> String {
    let threads = rayon::current_num_threads();
    let name = memory::proc_field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
    format!("{name}, {threads} threads")
}

impl Backend for Cpu {
    fn device(&self) -> &Device {
        &self.device
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(memory::available())
    }

    fn compile_with(&self, plan: Arc<Plan>, kernels: &[&'static registry::Kernel]) -> Result<Box<dyn Program>> {
        let mut scratch = 0;
        let kernels = plan.nodes.iter().zip(kernels).map(|(node, kernel)| {
            let kernel = match kernel.launch {
                _ if self.reference => REFERENCE,
                Launch::Cpu(kernel) => kernel,
                _ => unreachable!("rows of the CPU are functions"),
            };
            scratch = scratch.max((kernel.scratch)(&node.op, &node.shapes(), node.output.shape));
            kernel
        });
        let kernels = kernels.collect();
        // Zeroed memory is not resident before it is touched.
        let arena = vec![0.0; plan.arena_len];
        Ok(Box::new(CpuProgram { kernels, arena, scratch: vec![0.0; scratch], plan }))
    }
}

struct CpuProgram {
    plan: Arc<Plan>,
    kernels: Vec<Kernel>,
    arena: Vec<f32>,
    scratch: Vec<f32>,
}

impl Program for CpuProgram {
    fn residency(&self) -> Residency {
        Residency::Mapped
    }

    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<()> {
        let range = self.plan.slots[slot.id()].range();
        bytemuck::cast_slice_mut(&mut self.arena[range]).copy_from_slice(bytes);
        Ok(())
    }

    fn run(&mut self, nodes: Range<usize>) -> Result<()> {
        for i in nodes {
            let node = &self.plan.nodes[i];
            let out = self.plan.slots[node.output.id()].range();
            // The planner made operands and result disjoint, so each operand
            // lies wholly on one side of the result.
            let (left, rest) = self.arena.split_at_mut(out.start);
            let (out, right) = rest.split_at_mut(out.len());
            let end = left.len() + out.len();
            let slot = |slot: &Slot| {
                let storage = &self.plan.slots[slot.id()];
                let Range { start, end: stop } = storage.range();
                let values = if start < end { &left[start..stop] } else { &right[start - end..stop - end] };
                match storage.element {
                    Element::F32 | Element::GemmInput => Data::F32(values),
                    Element::U32 => Data::U32(bytemuck::cast_slice(values)),
                }
            };
            let mut inputs = [None; MAX_OPERANDS];
            for (operand, source) in node.inputs.iter().enumerate() {
                let data = match source {
                    Some(Source::Slot(_)) if node.aliased == Some(operand) => continue,
                    Some(Source::Slot(s)) => slot(s),
                    Some(Source::Weight(w, _)) => Data::Weight(&self.plan.weights[*w]),
                    None => continue,
                };
                inputs[operand] = source.map(|s| Tensor { shape: s.shape(), data });
            }
            (self.kernels[i].run)(Call {
                op: &node.op,
                isa: self.kernels[i].isa,
                inputs: &inputs[..node.inputs.len()],
                aliased: node.aliased,
                shape: node.output.shape,
                out,
                scratch: &mut self.scratch,
            });
        }
        Ok(())
    }

    fn time(&mut self, nodes: Range<usize>) -> Result<Vec<Duration>> {
        let time = |i| {
            let start = Instant::now();
            self.run(i..i + 1)?;
            Ok(start.elapsed())
        };
        nodes.map(time).collect()
    }

    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()> {
        let range = self.plan.slots[slot.id()].range();
        bytes.copy_from_slice(bytemuck::cast_slice(&self.arena[range]));
        Ok(())
    }
}
