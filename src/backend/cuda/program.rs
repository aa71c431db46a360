//! A plan on a device: memory, the launches of each node, and graphs of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use half::bf16;

use super::args::Args;
use super::context::Context;
use super::driver::{Driver, Geometry};
use super::fault::Outcome;
use super::modules::Module;
use super::squares;
use super::tensor_map::{self, Maps};
use crate::backend::weights::{Memory, State, Weights};
use crate::backend::{Program, Residency, operand};
use crate::error::Result;
use crate::plan::{Node, Plan, Slot, Source};
use crate::registry::cuda::Cuda;
use crate::registry::{Axis, Caps, Pass};

/// Blocks along y and z that a device allows; along x there are 2³¹ − 1.
const MOST_BLOCKS: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];

/// A node's launches, one after the other.
struct Launches<D: Driver> {
    module: Arc<Module<D>>,
    geometries: Vec<Geometry>,
    out_kind: u32,
    kinds: Vec<u32>,
    /// Whether it leaves sums of squares of its result to the next node, or finds those of the node before.
    squares: bool,
}

/// What the launches of a node are made with, beside their geometries: the kernels, and what they are given.
type Arguments<D> = (Arc<[<D as Driver>::Function]>, Args, Option<Maps>);

/// A compiled plan with its memory.
pub(super) struct CudaProgram<D: Driver> {
    context: Arc<Context<D>>,
    plan: Arc<Plan>,
    weights: Weights<Context<D>>,
    /// The epoch of the weights when `args` and `graphs` were made.
    epoch: u64,
    nodes: Vec<Launches<D>>,
    /// For each node; `None` before its segment first runs, and where its weights have moved since.
    args: Vec<Option<Arguments<D>>>,
    /// A graph for each range of nodes that has been run; graphs hold addresses of weights.
    graphs: HashMap<Range<usize>, D::Graph>,
    arena: D::Buffer,
    scratch: D::Buffer,
    /// Where sums of squares begin there, in elements, and where counters do.
    squares_from: u32,
    counters_from: u32,
}

/// Makes everything that running `plan` needs, but waits for no kernel: `modules` holds that of each node.
pub(super) fn compile<D: Driver>(
    context: Arc<Context<D>>,
    mut weights: Weights<Context<D>>,
    plan: Arc<Plan>,
    modules: Vec<Arc<Module<D>>>,
) -> Result<CudaProgram<D>> {
    let stores_bf16 = context.device().stores_bf16();
    let mut nodes = Vec::with_capacity(plan.nodes.len());
    let (mut scratch_len, mut counters) = (0, 0);
    let rows: Vec<Cuda> = modules.iter().map(|module| module.cuda()).collect();
    let (passes_squares, squares_len) = squares::passed_on(&plan, &rows);
    for ((node, module), squares) in plan.nodes.iter().zip(modules).zip(passes_squares) {
        let cuda = module.cuda();
        let number = |name: &str| cuda.number(name).expect("every row has its numbers");
        let mut geometries = Vec::with_capacity(cuda.passes.len());
        for (i, pass) in cuda.passes.iter().enumerate() {
            geometries.push(geometry(&context, node, &cuda, pass, cuda.tiled_pass() == Some(i))?);
        }
        let elements = |axes: &[Axis]| match axes {
            [] => 0,
            _ => axes.iter().map(|axis| axis.resolve(node, number)).product::<u64>(),
        };
        scratch_len = scratch_len.max(elements(cuda.scratch));
        counters = counters.max(elements(cuda.counters));
        nodes.push(Launches {
            module,
            geometries,
            out_kind: operand::kind(&plan, node.output, stores_bf16),
            kinds: operand::kinds(node, &plan, |w| weights.dtype(w), stores_bf16),
            squares,
        });
    }
    // Behind the memory that passes share, since a GRN uses both.
    let squares_from = scratch_len.next_multiple_of(64);
    let counters_from = squares_from + squares_len;
    let scratch_bytes = 4 * (counters_from + counters);
    let too_large = |_| context.does_not_fit(plan.arena_bytes() + scratch_bytes, "memory that kernels share");
    let counters_from = u32::try_from(counters_from).map_err(too_large)?;
    weights.reserve(plan.arena_bytes() + scratch_bytes)?;
    let allocate = |bytes| weights.make_room(bytes, || context.allocate(bytes));
    let (arena, scratch) = (allocate(plan.arena_bytes())?, allocate(scratch_bytes)?);
    if counters > 0 {
        let zeros = vec![0; 4 * counters as usize];
        context.call(|driver| driver.write(&scratch, 4 * u64::from(counters_from), &zeros))?;
    }
    Ok(CudaProgram {
        arena,
        scratch,
        squares_from: squares_from as u32, // not above counters_from
        counters_from,
        args: nodes.iter().map(|_| None).collect(),
        graphs: HashMap::new(),
        epoch: 0,
        context,
        weights,
        nodes,
        plan,
    })
}

/// The launch of a pass of a node.
fn geometry<D: Driver>(c: &Context<D>, node: &Node, cuda: &Cuda, pass: &Pass, tiled: bool) -> Result<Geometry> {
    let number = |name: &str| cuda.number(name).expect("every row has its numbers");
    let mut grid = pass.grid.map(|axis| axis.resolve(node, number));
    let clustered = tiled || pass.clusters;
    let cluster = if clustered { ["CLUSTER_X", "CLUSTER_Y"].map(|name| number(name) as u32) } else { [1; 2] };
    for (blocks, size) in grid.iter_mut().zip(cluster) {
        *blocks = blocks.next_multiple_of(size.into());
    }
    // Where tiles are copied, only for that.
    let given = tiled || cuda.tiles.is_empty();
    let shared = if given { cuda.number("SHARED") } else { None };
    let most = number("THREADS") as u32;
    let threads = pass.warps.map_or(most, |warps| 32 * warps.resolve(node, number) as u32);
    assert!(threads <= most, "{} is launched where it fits", pass.entry);
    Ok(Geometry { grid: blocks(c, node, grid)?, cluster, threads, shared: shared.unwrap_or(0) as u32 })
}

/// A grid that the device allows, for tensors whose elements 32 bits can count.
fn blocks<D: Driver>(context: &Context<D>, node: &Node, grid: [u64; 3]) -> Result<[u32; 3]> {
    let shapes = node.shapes().into_iter().flatten().chain([node.output.shape]);
    let countable = shapes.into_iter().all(|s| s.elements() < u32::MAX as usize - 1024);
    match countable && grid.iter().zip(MOST_BLOCKS).all(|(blocks, most)| *blocks <= most) {
        true => Ok(grid.map(|blocks| blocks as u32)),
        false => {
            let detail = format!("{} ({}) takes {grid:?} blocks, or more than 2³² elements", node.at, node.op.name());
            Err(context.does_not_fit(4 * node.output.shape.elements() as u64, &detail))
        }
    }
}

impl<D: Driver> CudaProgram<D> {
    /// Uploads what segment `p` reads of the weights, waits for its kernels and fills in the addresses that its nodes use.
    fn prepare(&mut self, weights: &mut State<D::Buffer>, p: usize) -> Result<()> {
        let epoch = self.weights.prepare(weights, p)?;
        if epoch != self.epoch {
            self.args.fill_with(|| None);
            self.graphs.clear();
            self.epoch = epoch;
        }
        for i in self.plan.segments[p].nodes.clone() {
            if self.args[i].is_none() {
                self.args[i] = Some(self.fill(weights, i)?);
            }
        }
        Ok(())
    }

    /// While the device is busy with more than `ahead` runs, uploads weights that later segments read. So the device
    /// always has work to do, and the host uploads at no other time.
    fn upload_ahead(&self, ahead: usize) -> Result<()> {
        while self.context.call(|driver| driver.busy(ahead))? && self.weights.upload_ahead()? {}
        Ok(())
    }

    fn fill(&self, weights: &State<D::Buffer>, i: usize) -> Result<Arguments<D>> {
        let node = &self.plan.nodes[i];
        let arena = D::address(&self.arena);
        let slot = |slot: Slot| arena + self.offset(slot);
        let address = |source: &Option<Source>| match *source {
            None => 0,
            Some(Source::Slot(s)) => slot(s),
            Some(Source::Weight(w, _)) => {
                let (buffer, range) = self.weights.at(weights, w);
                D::address(&buffer) + range.start
            }
        };
        let operands: Vec<u64> = node.inputs.iter().map(address).collect();
        let scratch = D::address(&self.scratch);
        let Launches { module, out_kind, kinds, squares, .. } = &self.nodes[i];
        let (cuda, functions) = (module.cuda(), self.context.result(module.functions())?);
        let args =
            Args::new(node, self.context.device().sms, (slot(node.output), *out_kind), &operands, scratch, kinds);
        let args = if *squares { args.with_squares(self.squares_from) } else { args };
        let args = if cuda.counters.is_empty() { args } else { args.with_counters(self.counters_from) };
        if cuda.tiles.is_empty() {
            return Ok((functions, args, None));
        }
        let number = |name: &str| cuda.number(name).expect("every row has its numbers");
        let maps = tensor_map::of(node, cuda.tiles, &operands, scratch, number);
        Ok((functions, args, Some(self.context.call(|driver| driver.encode(&maps))?)))
    }

    /// Offset of a slot in the arena, in bytes.
    fn offset(&self, slot: Slot) -> u64 {
        4 * self.plan.slots[slot.id()].range().start as u64
    }

    fn is_bf16(&self, slot: Slot) -> bool {
        operand::is_bf16(&self.plan, slot, self.context.device().stores_bf16())
    }

    /// Enqueues the launches of some nodes, or records them. Each but the first may begin before the one before it is
    /// over; what comes before the first need not be a launch.
    fn launch(&self, driver: &D, nodes: Range<usize>) -> Outcome<()> {
        let mut dependent = false;
        for i in nodes {
            let (functions, args, maps) = self.args[i].as_ref().expect("the node's segment has been prepared");
            let node = &self.nodes[i];
            for (p, (function, geometry)) in functions.iter().zip(&node.geometries).enumerate() {
                let maps = maps.as_ref().filter(|_| node.module.cuda().tiled_pass() == Some(p));
                driver.launch(function, *geometry, args, maps, dependent)?;
                dependent = self.context.device().caps.contains(Caps::DEPENDENT_LAUNCH);
            }
        }
        Ok(())
    }
}

impl<D: Driver> Program for CudaProgram<D> {
    fn residency(&self) -> Residency {
        self.weights.residency()
    }

    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<()> {
        let at = self.offset(slot);
        if !self.is_bf16(slot) {
            return self.context.call(|driver| driver.write(&self.arena, at, bytes));
        }
        let rounded: Vec<bf16> =
            bytes.chunks_exact(4).map(|b| bf16::from_f32(bytemuck::pod_read_unaligned(b))).collect();
        self.context.call(|driver| driver.write(&self.arena, at, bytemuck::cast_slice(&rounded)))
    }

    fn run(&mut self, nodes: Range<usize>) -> Result<()> {
        let store = self.weights.store();
        for (p, range) in self.plan.clone().by_segment(nodes) {
            // No other program moves weights before the work that reads them is enqueued.
            let mut weights = store.lock();
            self.prepare(&mut weights, p)?;
            if !self.graphs.contains_key(&range) {
                let launches = |driver: &D| driver.record(|| self.launch(driver, range.clone()));
                let graph = self.context.call(launches)?;
                self.graphs.insert(range.clone(), graph);
            }
            self.context.call(|driver| driver.replay(&self.graphs[&range]))?;
            drop(weights);
            self.upload_ahead(1)?;
        }
        Ok(())
    }

    fn time(&mut self, nodes: Range<usize>) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(nodes.len());
        let store = self.weights.store();
        for (p, range) in self.plan.clone().by_segment(nodes) {
            let mut weights = store.lock();
            self.prepare(&mut weights, p)?;
            for i in range {
                times.push(self.context.call(|driver| driver.time(|| self.launch(driver, i..i + 1)))?);
            }
        }
        Ok(times)
    }

    fn read(&mut self, slot: Slot, bytes: &mut [u8]) -> Result<()> {
        // The host would do nothing but wait.
        self.upload_ahead(0)?;
        let at = self.offset(slot);
        if !self.is_bf16(slot) {
            return self.context.call(|driver| driver.read(&self.arena, at, bytes));
        }
        let mut rounded = vec![bf16::ZERO; bytes.len() / 4];
        self.context.call(|driver| driver.read(&self.arena, at, bytemuck::cast_slice_mut(&mut rounded)))?;
        for (to, value) in bytes.chunks_exact_mut(4).zip(&rounded) {
            to.copy_from_slice(&value.to_f32().to_ne_bytes());
        }
        Ok(())
    }
}
