//! A plan on a device: buffers, bind groups, and the dispatches of each node.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use wgpu::BufferUsages;

use super::context::{Buffer, Context, LEAST};
use super::pace;
use super::parts::{Part, parts};
use super::pipelines::Pipeline;
use super::shaders::{Loaded, Shaders};
use crate::backend::weights::{State, Weights};
use crate::backend::{Program, Residency, operand};
use crate::error::{Error, Result};
use crate::plan::{Node, Plan, Slot, Source};
use crate::registry::{Grid, Kernel, Shader};
use crate::shape::Shape;

/// The parameters of every node lie at multiples of this in one uniform buffer.
const ALIGN: u64 = 256;

/// The binding of memory that a kernel's passes share.
const SCRATCH: u32 = 12;

/// One entry point of a node.
struct Pass {
    pipeline: Arc<Pipeline>,
    /// Workgroups along x, y and z.
    grid: [u32; 3],
    /// Whether they may be dispatched in parts.
    parted: bool,
    /// How many along y are dispatched before the next pass does the same rows.
    band: u32,
}

/// A node's dispatches.
struct Dispatches {
    shader: Arc<Loaded>,
    passes: Vec<Pass>,
    /// Work of the node, which any of its passes might do.
    work: u64,
}

/// What is dispatched at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) node: usize,
    pass: usize,
    part: Part,
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
            let pipeline = shaders.pipeline(kernel.name, &loaded, pass.entry, &kinds);
            let parted = loaded.module.is_parted(pass.entry);
            let limit = if parted { u32::MAX } else { context.limits().max_compute_workgroups_per_dimension };
            let grid = workgroups(&pass.grid, number, limit, node, kernel)?;
            let band = match shader.band {
                "" => u32::MAX,
                rows => (number(rows) / pass.grid[1].per(number)) as u32,
            };
            passes.push(Pass { pipeline, grid, parted, band });
        }
        if !shader.scratch.is_empty() {
            let len: u64 = shader.scratch.iter().map(|axis| axis.resolve(node, number)).product();
            scratch_len = scratch_len.max(len);
        }
        params.resize(params.len().next_multiple_of(ALIGN as usize), 0u8);
        params.extend_from_slice(bytemuck::cast_slice(&words(node)));
        nodes.push(Dispatches { shader: loaded, passes, work: pace::work(plan.cost(node, false)) });
    }
    params.resize((params.len() + ALIGN as usize).next_multiple_of(ALIGN as usize), 0);
    shaders.compile()?;

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
            let at = format!("{} ({})", node.at, node.op.name());
            Err(context.too_large("binding", &at, bytes, limit))
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

/// Workgroups of a node along each axis, `limit` at most.
fn workgroups(grid: &Grid, number: impl Fn(&str) -> u64, limit: u32, node: &Node, kernel: &Kernel) -> Result<[u32; 3]> {
    let groups = grid.map(|axis| axis.resolve(node, &number));
    match groups.iter().all(|&g| g <= limit.into()) {
        true => Ok(groups.map(|g| g as u32)),
        false => Err(Error::Shader {
            path: format!("{}.wgsl", kernel.name).into(),
            message: format!(
                "takes {groups:?} workgroups for {}, more than the {limit} along an axis that the device allows; add \
                 `part.first` of common.wgsl to `workgroup_id`, and it is dispatched in parts",
                node.at
            ),
        }),
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

    /// Records one dispatch.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, Piece { node, pass: entry, part }: Piece) {
        pass.set_pipeline(&self.nodes[node].passes[entry].pipeline);
        pass.set_bind_group(0, self.bind_groups[node].as_ref(), &[]);
        let [x, y, z] = part.first;
        pass.set_immediates(0, bytemuck::cast_slice(&[x, y, z, 0]));
        let [x, y, z] = part.groups;
        pass.dispatch_workgroups(x, y, z);
    }

    pub(super) fn submit(&self, pieces: &[Piece], work: u64) {
        let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pieces.iter().for_each(|piece| self.dispatch(&mut pass, *piece));
        self.context.tally.count(&mut pass);
        drop(pass);
        self.context.submit(encoder.finish(), work);
    }

    /// What node `i` dispatches, each with its work, which is at most what one submission may have.
    fn pieces(&self, i: usize) -> impl Iterator<Item = (Piece, u64)> {
        let Dispatches { passes, work, .. } = &self.nodes[i];
        let (budget, limit) = (self.context.budget(), self.context.limits().max_compute_workgroups_per_dimension);
        let bands = passes.iter().map(|pass| pass.grid[1].div_ceil(pass.band)).max().unwrap_or(0);
        let in_order = (0..bands).flat_map(move |i| passes.iter().enumerate().map(move |(pass, of)| (i, pass, of)));
        in_order.flat_map(move |(i_band, pass, Pass { grid, parted, band, .. })| {
            let [x, y, z] = *grid;
            let begin = i_band.saturating_mul(*band).min(y);
            let length = (y - begin).min(*band);
            let groups = grid.iter().map(|&g| u128::from(g)).product::<u128>();
            let most = match parted {
                true => (u128::from(budget) * groups / u128::from(*work).max(1)).min(u64::MAX.into()) as u64,
                false => u64::MAX,
            };
            parts([x, length, z], most, limit).map(move |mut part| {
                part.first[1] += begin;
                let work = u128::from(*work) * u128::from(part.len()) / groups.max(1);
                (Piece { node: i, pass, part }, work as u64)
            })
        })
    }

    /// Calls `each` with what makes one submission, its weights on the device, and its work.
    fn submissions(
        &mut self,
        nodes: Range<usize>,
        mut each: impl FnMut(&Self, &[Piece], u64) -> Result<()>,
    ) -> Result<()> {
        let store = self.weights.store();
        let mut together = Vec::new();
        for (p, range) in self.plan.clone().by_segment(nodes) {
            // No other program moves weights before the work that reads them is enqueued.
            let mut weights = store.lock();
            self.prepare(&mut weights, p)?;
            let mut total = 0;
            for (piece, work) in range.flat_map(|i| self.pieces(i)) {
                if total + work > self.context.budget() && !together.is_empty() {
                    each(self, &together, total)?;
                    together.clear();
                    total = 0;
                }
                together.push(piece);
                total += work;
            }
            each(self, &together, total)?;
            together.clear();
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
        self.submissions(nodes, |program, pieces, work| {
            program.submit(pieces, work);
            Ok(())
        })
    }

    fn time(&mut self, nodes: Range<usize>) -> Result<Vec<Duration>> {
        let (first, mut times) = (nodes.start, vec![Duration::ZERO; nodes.len()]);
        self.submissions(nodes, |program, pieces, _| {
            for (piece, time) in pieces.iter().zip(program.time_each(pieces)?) {
                times[piece.node - first] += time;
            }
            Ok(())
        })?;
        Ok(times)
    }

    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()> {
        let start = 4 * self.plan.slots[slot.id()].range().start as u64;
        self.context.fetch(&self.arena, start, bytes)
    }
}
