//! Weights in the device's memory, as stored in the file: what lies where, and which of it is there.
//!
//! Weights that the same phases read share buffers, which come and go together.
//! If everything fits it stays; if not, a phase's buffers replace those of the phase before.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::plan::{Plan, Source};
use crate::tensor::{Dtype, Identity, Part, Weight};

/// A device's memory, as far as weights are concerned.
pub(super) trait Memory {
    /// A piece of it.
    type Buffer: Clone;

    /// Bytes that a buffer may have.
    fn limit(&self) -> u64;

    /// A buffer for weights.
    fn allocate(&self, bytes: u64) -> Result<Self::Buffer>;

    /// Hands over bytes of whole words, to be copied to offset `at` of a buffer.
    fn copy(&self, buffer: &Self::Buffer, at: u64, bytes: &[u8]) -> Result<()>;

    /// Waits until everything handed over has been done; what was dropped is free then.
    fn wait(&self) -> Result<()>;
}

/// Weights start at multiples of this: any device can bind them there, and load them in 16 bytes.
const ALIGN: u64 = 256;

/// Bytes handed over before the device is made to move them, which bounds its staging memory.
const IN_FLIGHT: u64 = 64 << 20;

/// Where a weight lies.
#[derive(Debug, Clone)]
pub(super) struct Place {
    buffer: usize,
    /// Bytes of the buffer.
    pub(super) range: Range<u64>,
    /// What its elements are.
    pub(super) dtype: Dtype,
}

/// Weights uploaded as one: a weight, and others that are ranges of it.
struct Block {
    weight: usize,
    dtype: Dtype,
    /// Bit `p`: read by phase `p`.
    phases: u64,
    bytes: u64,
    place: (usize, u64),
}

/// A buffer of blocks that the same phases read.
struct Group {
    phases: u64,
    bytes: u64,
    blocks: Vec<usize>,
}

/// The weights of the plan compiled last: another size of the same model needs the same.
pub(super) struct Latest<M: Memory>(Mutex<Option<Arc<Weights<M>>>>);

impl<M: Memory> Default for Latest<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M: Memory> Latest<M> {
    /// The weights of `plan`: those already here, if they are the same.
    pub(super) fn of(&self, memory: &Arc<M>, plan: &Plan) -> Arc<Weights<M>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref() {
            Some(weights) if weights.key == key(plan) => weights.clone(),
            _ => {
                // First let go of the old.
                *known = None;
                known.insert(Arc::new(Weights::new(memory.clone(), plan))).clone()
            }
        }
    }
}

/// The weights of a plan on a device.
pub(super) struct Weights<M: Memory> {
    memory: Arc<M>,
    weights: Vec<Weight>,
    key: Vec<(Identity, u64)>,
    places: Vec<Place>,
    blocks: Vec<Block>,
    groups: Vec<Group>,
    buffers: Mutex<Vec<Option<M::Buffer>>>,
}

/// What a plan's weights are: equal for plans that can share them.
fn key(plan: &Plan) -> Vec<(Identity, u64)> {
    plan.weights.iter().map(Weight::identity).zip(phases_of(plan)).collect()
}

/// For each weight, the phases that read it, as bits.
fn phases_of(plan: &Plan) -> Vec<u64> {
    let mut phases = vec![0; plan.weights.len()];
    for (p, phase) in plan.phases.iter().enumerate() {
        for source in plan.nodes[phase.nodes.clone()].iter().flat_map(|node| node.inputs.iter().flatten()) {
            if let Source::Weight(w, _) = source {
                phases[*w] |= 1 << p;
            }
        }
    }
    phases
}

/// The type that a weight has on the device: its own, or f32 if its parts differ.
fn dtype(weight: &Weight) -> Dtype {
    let first = weight.parts()[0].dtype();
    if weight.parts().iter().all(|p| p.dtype() == first) { first } else { Dtype::F32 }
}

fn bytes(weight: &Weight, dtype: Dtype) -> u64 {
    weight.parts().iter().map(|p| (p.elements().len() * dtype.bytes()) as u64).sum()
}

impl<M: Memory> Weights<M> {
    /// Decides where each weight of `plan` will lie; uploads nothing.
    fn new(memory: Arc<M>, plan: &Plan) -> Self {
        let phases = phases_of(plan);
        let (mut blocks, inside) = blocks(&plan.weights, &phases);
        let limit = memory.limit().min(1 << 30);
        let groups = group(&mut blocks, limit);
        let place = |w: usize| {
            let (block, offset): (usize, u64) = inside[w];
            let Block { dtype, place: (buffer, start), .. } = blocks[block];
            // Bindings are whole words.
            let len = bytes(&plan.weights[w], dtype).next_multiple_of(4);
            Place { buffer, range: start + offset..start + offset + len, dtype }
        };
        let places = (0..plan.weights.len()).map(place).collect();
        let buffers = Mutex::new(vec![None; groups.len()]);
        Self { memory, weights: plan.weights.clone(), key: key(plan), places, blocks, groups, buffers }
    }

    /// Where weight `w` lies.
    pub(super) fn place(&self, w: usize) -> &Place {
        &self.places[w]
    }

    /// Bytes of all weights.
    pub(super) fn bytes(&self) -> u64 {
        self.groups.iter().map(|g| g.bytes).sum()
    }

    /// Bytes of the weights that one phase reads, for the phase that reads most.
    pub(super) fn largest_phase_bytes(&self) -> u64 {
        let of = |p: usize| self.groups.iter().filter(|g| g.phases >> p & 1 == 1).map(|g| g.bytes).sum();
        (0..u64::BITS as usize).map(of).max().unwrap_or(0)
    }

    /// The buffer of a place. Its phase has been [made resident](Self::make_resident).
    pub(super) fn buffer(&self, place: &Place) -> M::Buffer {
        self.buffers().get(place.buffer).cloned().flatten().expect("the weight's phase is resident")
    }

    fn buffers(&self) -> std::sync::MutexGuard<'_, Vec<Option<M::Buffer>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads what the phases `wanted` (as bits) read and is not there; unless all may stay, drops what
    /// they do not read. Returns whether anything moved.
    pub(super) fn make_resident(&self, wanted: u64, keep_others: bool) -> Result<bool> {
        let mut buffers = self.buffers();
        let mut moved = false;
        if !keep_others {
            for (group, buffer) in self.groups.iter().zip(buffers.iter_mut()) {
                if group.phases & wanted == 0 && buffer.take().is_some() {
                    moved = true;
                }
            }
            if moved {
                // Memory is free again once the device has finished with it.
                self.memory.wait()?;
            }
        }
        for (i, group) in self.groups.iter().enumerate() {
            if group.phases & wanted != 0 && buffers[i].is_none() {
                buffers[i] = Some(self.upload(group)?);
                moved = true;
            }
        }
        Ok(moved)
    }

    fn upload(&self, group: &Group) -> Result<M::Buffer> {
        let buffer = self.memory.allocate(group.bytes)?;
        let mut in_flight = 0;
        for &b in &group.blocks {
            let block = &self.blocks[b];
            self.copy(&buffer, block, &self.weights[block.weight])?;
            in_flight += block.bytes;
            if in_flight > IN_FLIGHT {
                self.memory.wait()?;
                in_flight = 0;
            }
        }
        Ok(buffer)
    }

    /// Copies a block, straight from the map where parts are whole words of the wanted type.
    fn copy(&self, buffer: &M::Buffer, block: &Block, weight: &Weight) -> Result<()> {
        let mut at = block.place.1;
        let whole = |part: &Part| part.dtype() == block.dtype && part.bytes().len().is_multiple_of(4);
        if weight.parts().iter().all(whole) {
            for part in weight.parts() {
                self.memory.copy(buffer, at, part.bytes())?;
                at += part.bytes().len() as u64;
            }
            return Ok(());
        }
        let mut all: Vec<u8> = match weight.parts().iter().all(|p| p.dtype() == block.dtype) {
            true => weight.parts().iter().flat_map(|p| p.bytes()).copied().collect(),
            false => bytemuck::cast_slice(&weight.to_f32()).to_vec(),
        };
        all.resize(all.len().next_multiple_of(4), 0);
        self.memory.copy(buffer, at, &all)
    }
}

/// The blocks to upload, and for each weight its block and byte offset in there. Weights whose
/// parts are neighbours in another's (keys and values, in queries, keys and values) lie inside it.
fn blocks(weights: &[Weight], phases: &[u64]) -> (Vec<Block>, Vec<(usize, u64)>) {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&w| std::cmp::Reverse(weights[w].parts().len()));
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = vec![(0, 0); weights.len()];
    let mut known: HashMap<(usize, Range<usize>), (usize, usize, u64)> = HashMap::new();
    for w in order {
        let (weight, dtype) = (&weights[w], dtype(&weights[w]));
        let parts = weight.parts();
        let home = known.get(&parts[0].place()).copied().filter(|&(block, first, offset)| {
            let other = &weights[blocks[block].weight].parts()[first..];
            let same = other.len() >= parts.len() && parts.iter().zip(other).all(|(a, b)| a.place() == b.place());
            same && blocks[block].dtype == dtype && offset % ALIGN == 0
        });
        if let Some((block, _, offset)) = home {
            blocks[block].phases |= phases[w];
            inside[w] = (block, offset);
            continue;
        }
        let mut offset = 0;
        for (i, part) in parts.iter().enumerate() {
            known.entry(part.place()).or_insert((blocks.len(), i, offset));
            offset += (part.elements().len() * dtype.bytes()) as u64;
        }
        inside[w] = (blocks.len(), 0);
        blocks.push(Block { weight: w, dtype, phases: phases[w], bytes: bytes(weight, dtype), place: (0, 0) });
    }
    (blocks, inside)
}

/// Gives each block its buffer and offset: one buffer for each set of phases, more where it would exceed `limit`.
fn group(blocks: &mut [Block], limit: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // In plan order within a set of phases.
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&b| (blocks[b].phases, blocks[b].weight));
    for b in order {
        let block = &mut blocks[b];
        let len = block.bytes.next_multiple_of(ALIGN);
        match groups.last_mut() {
            Some(last) if last.phases == block.phases && last.bytes + len <= limit => {
                block.place = (0, last.bytes);
                last.bytes += len;
                last.blocks.push(b);
            }
            _ => {
                block.place = (0, 0);
                groups.push(Group { phases: block.phases, bytes: len, blocks: vec![b] });
            }
        }
        block.place.0 = groups.len() - 1;
    }
    groups
}
