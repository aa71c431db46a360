//! A plan on a device: buffers, bind groups, and the dispatches of each node.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use wgpu::BufferUsages;

use super::context::{Buffer, Context, LEAST};
use super::shaders::{Loaded, Shaders};
use crate::backend::weights::{State, Weights};
use crate::backend::{Program, Residency, operand};
use crate::error::Result;
use crate::plan::{Node, Plan, Slot, Source};
use crate::registry::{Axis, Grid, Kernel, Shader};
use crate::shape::Shape;

/// The parameters of every node lie at multiples of this in one uniform buffer.
const ALIGN: u64 = 256;

/// The binding of memory that a kernel's passes share.
const SCRATCH: u32 = 12;

/// FLOP of a submission before the next one begins. A display's watchdog waits for seconds, and this takes the slowest
/// GPUs a few tenths of a second.
const SUBMISSION_FLOPS: u64 = 100_000_000_000;

/// A node's dispatches.
struct Dispatches {
    shader: Arc<Loaded>,
    passes: Vec<(wgpu::ComputePipeline, [u32; 3])>,
    flops: u64,
}

/// A compiled plan with its memory.
pub(super) struct WgpuProgram {
    pub(super) context: Arc<Context>,
    plan: Arc<Plan>,
    weights: Weights<Context>,
    /// The epoch of the weights when `bind_groups` were made.
    epoch: u64,
    nodes: Vec<Dispatches>,
    /// For each node; `None` before its segment first runs, and where its weights have moved since.
    bind_groups: Vec<Option<wgpu::BindGroup>>,
    arena: Buffer,
    scratch: Buffer,
    /// Bound where an optional weight is absent.
    nothing: Buffer,
    params: Buffer,
}

/// Makes everything that running `plan` needs. `kernels` holds the row of each node.
pub(super) fn compile(
    context: Arc<Context>,
    shaders: &Shaders,
    mut weights: Weights<Context>,
    plan: Arc<Plan>,
    kernels: &[(&'static Kernel, &'static Shader)],
) -> Result<WgpuProgram> {
    let mut nodes = Vec::with_capacity(plan.nodes.len());
    let mut params = Vec::new();
    let mut scratch_len = 0;
    for (node, (kernel, shader)) in plan.nodes.iter().zip(kernels) {
        let loaded = shaders.load(kernel, shader)?;
        let kinds = operand::kinds(node, &plan, |w| weights.dtype(w), false);
        let number = |name: &str| loaded.module.number(name).expect("looked up when the shader was loaded");
        let mut passes = Vec::new();
        for pass in shader.passes {
            let pipeline = shaders.pipeline(kernel.name, &loaded, pass.entry, &kinds)?;
            passes.push((pipeline, workgroups(&pass.grid, number, &context, node)?));
        }
        if !shader.scratch.is_empty() {
            let len: u64 = shader.scratch.iter().map(|axis| axis.resolve(node, number)).product();
            scratch_len = scratch_len.max(len);
        }
        params.resize(params.len().next_multiple_of(ALIGN as usize), 0u8);
        params.extend_from_slice(bytemuck::cast_slice(&words(node)));
        let flops = node.op.flops(&node.shapes(), node.output.shape);
        nodes.push(Dispatches { shader: loaded, passes, flops });
    }
    params.resize((params.len() + ALIGN as usize).next_multiple_of(ALIGN as usize), 0);

    for (node, Dispatches { shader, .. }) in plan.nodes.iter().zip(&nodes) {
        check_bindings(&context, node, &plan, &weights, &shader.bindings, 4 * scratch_len)?;
    }
    let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    let buffers = [
        ("activations", plan.arena_bytes(), storage),
        ("scratch memory of kernels", 4 * scratch_len, storage),
        ("nothing", ALIGN, storage),
        ("parameters", params.len() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST),
    ];
    weights.reserve(buffers.iter().map(|(_, bytes, _)| (*bytes).max(LEAST)).sum())?;
    let [arena, scratch, nothing, uniform] =
        buffers.map(|(label, bytes, usage)| weights.make_room(bytes, || context.buffer(label, bytes, usage)));
    let (arena, scratch, nothing, uniform) = (arena?, scratch?, nothing?, uniform?);
    context.queue.write_buffer(&uniform, 0, &params);
    Ok(WgpuProgram {
        bind_groups: vec![None; nodes.len()],
        epoch: 0,
        context,
        weights,
        nodes,
        arena,
        scratch,
        nothing,
        params: uniform,
        plan,
    })
}

/// Compares what a node's shader binds with the device's limit, before anything is allocated.
fn check_bindings(
    context: &Context,
    node: &Node,
    plan: &Plan,
    weights: &Weights<Context>,
    bindings: &[wgpu::BindGroupLayoutEntry],
    scratch_bytes: u64,
) -> Result<()> {
    let limit = context.limits().max_storage_buffer_binding_size;
    let slot = |slot: Slot| 4 * plan.slots[slot.id()].len as u64;
    let bytes = |entry: &wgpu::BindGroupLayoutEntry| match entry.binding {
        0 => ALIGN,
        1 => slot(node.output),
        SCRATCH => scratch_bytes,
        binding => match node.inputs.get(binding as usize - 2).copied().flatten() {
            Some(Source::Slot(s)) => slot(s),
            Some(Source::Weight(w, _)) => weights.bytes(w),
            None => 0,
        },
    };
    match bindings.iter().map(bytes).find(|&bytes| bytes > limit) {
        None => Ok(()),
        Some(bytes) => {
            let detail =
                format!("{} ({}) in one binding; the device allows {} MiB", node.at, node.op.name(), limit >> 20);
            Err(context.does_not_fit(bytes, &detail))
        }
    }
}

/// A shader's `Params`: shapes of the result and the operands, then the op's constants.
fn words(node: &Node) -> Vec<u32> {
    let operands = node.inputs.iter().map(|i| i.map_or(Shape::new(0, 0, 0, 0), |source| source.shape()));
    let shapes = std::iter::once(node.output.shape).chain(operands);
    let mut words: Vec<u32> = shapes.flat_map(|s| [s.n, s.h, s.w, s.c]).map(|v| v as u32).collect();
    words.extend(node.op.constants());
    words
}

/// Workgroups as the device allows them: a long grid of one axis is folded in two.
fn workgroups(grid: &Grid, number: impl Fn(&str) -> u64, context: &Context, node: &Node) -> Result<[u32; 3]> {
    let limit = u64::from(context.limits().max_compute_workgroups_per_dimension);
    let groups = grid.map(|axis| axis.resolve(node, &number));
    let folded = match grid {
        [_, Axis::ONE, Axis::ONE] if groups[0] > limit => {
            let rows = groups[0].div_ceil(limit);
            [groups[0].div_ceil(rows), rows, 1]
        }
        _ => groups,
    };
    match folded.iter().all(|&g| g <= limit) {
        true => Ok(folded.map(|g| g as u32)),
        false => Err(context.does_not_fit(
            context.info().free_bytes,
            &format!("{} takes {groups:?} workgroups, the device allows {limit} along each axis", node.at),
        )),
    }
}

impl WgpuProgram {
    /// Uploads what segment `p` reads of the weights and binds everything that its nodes use.
    fn prepare(&mut self, weights: &mut State<Arc<Buffer>>, p: usize) -> Result<()> {
        let epoch = self.weights.prepare(weights, p)?;
        if epoch != self.epoch {
            // Some name buffers that are gone.
            self.bind_groups.fill(None);
            self.epoch = epoch;
        }
        for i in self.plan.segments[p].nodes.clone() {
            if self.bind_groups[i].is_none() {
                self.bind_groups[i] = Some(self.bind(weights, i));
            }
        }
        self.context.check()
    }

    fn bind(&self, weights: &State<Arc<Buffer>>, i: usize) -> wgpu::BindGroup {
        let (node, shader) = (&self.plan.nodes[i], &self.nodes[i].shader);
        let sources: Vec<_> = shader.bindings.iter().map(|entry| self.source(weights, i, entry)).collect();
        let entries: Vec<_> = std::iter::zip(&shader.bindings, &sources)
            .map(|(entry, (buffer, range))| wgpu::BindGroupEntry {
                binding: entry.binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: range.start,
                    size: std::num::NonZeroU64::new(range.end - range.start),
                }),
            })
            .collect();
        self.context.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&node.at),
            layout: &shader.layout,
            entries: &entries,
        })
    }

    /// The bytes that belong at a binding: 0 parameters, 1 the result, 2 the first operand, …
    fn source(
        &self,
        weights: &State<Arc<Buffer>>,
        i: usize,
        entry: &wgpu::BindGroupLayoutEntry,
    ) -> (wgpu::Buffer, Range<u64>) {
        let node = &self.plan.nodes[i];
        let of = |buffer: &Buffer| wgpu::Buffer::clone(buffer);
        let slot = |slot: Slot| {
            let elements = self.plan.slots[slot.id()].range();
            (of(&self.arena), 4 * elements.start as u64..4 * elements.end as u64)
        };
        let operand = match entry.binding {
            0 => return (of(&self.params), i as u64 * ALIGN..(i as u64 + 1) * ALIGN),
            1 => return slot(node.output),
            SCRATCH => return (of(&self.scratch), 0..self.scratch.size()),
            binding => binding as usize - 2,
        };
        match node.inputs.get(operand).copied().flatten() {
            Some(Source::Slot(s)) if node.aliased != Some(operand) => slot(s),
            Some(Source::Weight(w, _)) => {
                let (buffer, range) = self.weights.at(weights, w);
                (of(&buffer), range)
            }
            // Absent, or in the result: a stand-in. One buffer may not be bound for reading alone and for
            // writing in the same dispatch.
            _ => match entry.ty {
                wgpu::BindingType::Buffer { ty: wgpu::BufferBindingType::Storage { read_only: true }, .. } => {
                    (of(&self.nothing), 0..ALIGN)
                }
                _ => (of(&self.scratch), 0..ALIGN),
            },
        }
    }

    /// Records the dispatches of node `i`.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, i: usize) {
        pass.set_bind_group(0, self.bind_groups[i].as_ref(), &[]);
        for (pipeline, [x, y, z]) in &self.nodes[i].passes {
            pass.set_pipeline(pipeline);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }

    pub(super) fn submit(&self, nodes: Range<usize>) {
        let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        nodes.for_each(|i| self.dispatch(&mut pass, i));
        drop(pass);
        self.context.queue.submit([encoder.finish()]);
    }

    /// Calls `each` with parts of `nodes` that make one submission, their weights on the device.
    fn submissions(
        &mut self,
        nodes: Range<usize>,
        mut each: impl FnMut(&Self, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let store = self.weights.store();
        for (p, range) in self.plan.clone().by_segment(nodes) {
            // No other program moves weights before the work that reads them is enqueued.
            let mut weights = store.lock();
            self.prepare(&mut weights, p)?;
            let (mut start, mut flops) = (range.start, 0);
            for i in range.clone() {
                flops += self.nodes[i].flops;
                if flops > SUBMISSION_FLOPS {
                    each(self, start..i + 1)?;
                    (start, flops) = (i + 1, 0);
                }
            }
            if start < range.end {
                each(self, start..range.end)?;
            }
        }
        self.context.check()
    }
}

impl Program for WgpuProgram {
    fn residency(&self) -> Residency {
        self.weights.residency()
    }

    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<()> {
        let start = 4 * self.plan.slots[slot.id()].range().start as u64;
        self.context.queue.write_buffer(&self.arena, start, bytes);
        self.context.check()
    }

    fn run(&mut self, nodes: Range<usize>) -> Result<()> {
        self.submissions(nodes, |program, part| {
            program.submit(part);
            Ok(())
        })
    }

    fn time(&mut self, nodes: Range<usize>) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(nodes.len());
        self.submissions(nodes, |program, part| {
            times.extend(program.time_each(part)?);
            Ok(())
        })?;
        Ok(times)
    }

    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()> {
        let start = 4 * self.plan.slots[slot.id()].range().start as u64;
        self.context.fetch(&self.arena, start, bytes)
    }
}
