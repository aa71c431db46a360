//! Which tensors are in a device's memory, and where: one store for everything that is compiled for the device.
//!
//! A tensor is one [block](Block), which all programs of the device share. Blocks that the same part of a plan reads lie in one allocation,
//! a *chunk*, which is allocated and given back as a whole. What no program needs any more stays until memory is needed
//! for something else, or until the host has lost the tensor too.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::Memory;
use super::layout::{Block, Source, fill};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Weight};

/// Bytes that one thread fills at a time.
const PIECE: usize = 1 << 20;

/// A block by its number. Numbers are not used again.
pub(super) type BlockId = usize;

/// A chunk by its number. Numbers are not used again.
pub(super) type ChunkId = usize;

/// A block that is on the device, or that a program needs.
struct Entry {
    block: Block,
    /// How many programs need it.
    users: u64,
    /// The chunk that it lies in, and its offset there in bytes.
    place: Option<(ChunkId, u64)>,
}

/// One allocation of the device's memory.
pub(super) struct Chunk<B> {
    buffer: B,
    bytes: u64,
    /// In the order in which they lie there, with their offsets.
    pub(super) blocks: Vec<(u64, BlockId)>,
    /// Bytes enqueued for upload, from the beginning.
    uploaded: u64,
    /// Whether work that is enqueued from now on finds all of them there.
    pub(super) ordered: bool,
    /// When it was last needed, on the store's clock.
    used: u64,
}

impl<B> Chunk<B> {
    pub(super) fn is_complete(&self) -> bool {
        self.uploaded == self.bytes
    }
}

/// What is on the device. Whoever enqueues work that reads weights holds the lock on it until that is done, so that
/// nobody else drops them between.
pub(in crate::backend) struct State<B> {
    entries: BTreeMap<BlockId, Entry>,
    /// The blocks that have a shard from there.
    known: HashMap<Source, Vec<BlockId>>,
    pub(super) chunks: BTreeMap<ChunkId, Chunk<B>>,
    /// For each program, the most bytes of weights that it must have there at once.
    pub(super) least: BTreeMap<usize, u64>,
    next: usize,
    /// Counts how often weights were prepared.
    clock: u64,
    /// Counts how often something was dropped that a program needs: addresses noted before that are of no use.
    pub(super) epoch: u64,
}

impl<B> State<B> {
    /// The block that holds a weight with elements of this type, and the offset of the weight there: one that is `needed`
    /// anyway, else one that is on the device, else any. It is the caller who needs it from now on.
    pub(super) fn require(
        &mut self,
        weight: &Weight,
        dtype: Dtype,
        needed: impl Fn(BlockId) -> bool,
    ) -> (BlockId, u64) {
        let candidates = self.known.get(&weight.parts()[0].place()).into_iter().flatten().copied();
        let found = candidates.filter_map(|id| Some((id, self.entries[&id].block.find(weight, dtype)?)));
        let found = found.max_by_key(|(id, _)| (needed(*id), self.entries[id].place.is_some()));
        let (id, offset) = found.unwrap_or_else(|| (self.insert(Block::of(weight, dtype)), 0));
        self.entry(id).users += u64::from(!needed(id));
        (id, offset)
    }

    fn insert(&mut self, block: Block) -> BlockId {
        let id = self.number();
        block.sources().for_each(|source| self.known.entry(source).or_default().push(id));
        self.entries.insert(id, Entry { block, users: 0, place: None });
        id
    }

    /// One program less needs a block.
    pub(super) fn release(&mut self, id: BlockId) {
        self.entry(id).users -= 1;
        self.forget(id);
    }

    /// Forgets a block that is neither needed nor there.
    fn forget(&mut self, id: BlockId) {
        let Entry { block, users: 0, place: None } = &self.entries[&id] else { return };
        for source in block.sources() {
            if let Some(ids) = self.known.get_mut(&source) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.known.remove(&source);
                }
            }
        }
        self.entries.remove(&id);
    }

    fn entry(&mut self, id: BlockId) -> &mut Entry {
        self.entries.get_mut(&id).expect("a block that is needed is not forgotten")
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    /// Bytes that a block takes on the device.
    pub(super) fn bytes(&self, id: BlockId) -> u64 {
        self.entries[&id].block.bytes()
    }

    /// Where a block lies, if it is on the device.
    pub(super) fn place(&self, id: BlockId) -> Option<(ChunkId, u64)> {
        self.entries[&id].place
    }

    /// The buffer of a chunk.
    pub(super) fn buffer(&self, id: ChunkId) -> &B {
        &self.chunks[&id].buffer
    }

    /// Makes a chunk of blocks that are not on the device.
    pub(super) fn add(&mut self, buffer: B, bytes: u64, blocks: Vec<(u64, BlockId)>) {
        let id = self.number();
        for &(at, block) in &blocks {
            self.entry(block).place = Some((id, at));
        }
        self.chunks.insert(id, Chunk { buffer, bytes, blocks, uploaded: 0, ordered: false, used: self.clock });
    }

    /// Notes down that these chunks are needed now.
    pub(super) fn touch(&mut self, chunks: &[ChunkId]) {
        self.clock += 1;
        for id in chunks {
            self.chunks.get_mut(id).expect("it was prepared").used = self.clock;
        }
    }

    /// Whether a program needs something of a chunk.
    fn is_needed(&self, chunk: &Chunk<B>) -> bool {
        chunk.blocks.iter().any(|(_, id)| self.entries[id].users > 0)
    }

    /// Bytes of all chunks.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.bytes).sum()
    }

    /// Bytes of the chunks that no program needs.
    pub(super) fn unneeded_bytes(&self) -> u64 {
        self.chunks.values().filter(|chunk| !self.is_needed(chunk)).map(|chunk| chunk.bytes).sum()
    }

    /// Whether it knows of no block, chunk or program.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.known.is_empty() && self.chunks.is_empty() && self.least.is_empty()
    }

    /// The chunk to be dropped next if memory is needed by whoever `reads` some blocks: one that no program needs, if
    /// there is one, else one of which it reads nothing, else one of which it reads a part; of equals, the one that has
    /// not been used for longest.
    fn victim(&self, reads: &dyn Fn(BlockId) -> bool) -> Option<ChunkId> {
        let read = |chunk: &Chunk<B>| chunk.blocks.iter().filter(|(_, id)| reads(*id)).count();
        let chunks = self.chunks.iter().map(|(id, chunk)| (id, chunk, read(chunk)));
        let droppable = chunks.filter(|(_, chunk, read)| *read < chunk.blocks.len());
        let victim = droppable.min_by_key(|(_, chunk, read)| (self.is_needed(chunk), *read > 0, chunk.used));
        victim.map(|(id, ..)| *id)
    }
}

/// The weights on a device.
pub(in crate::backend) struct Store<M: Memory> {
    pub(super) memory: Arc<M>,
    state: Mutex<State<M::Buffer>>,
}

impl<M: Memory> Store<M> {
    /// An empty store.
    pub(in crate::backend) fn new(memory: Arc<M>) -> Arc<Self> {
        let (entries, known, chunks, least) = Default::default();
        let state = State { entries, known, chunks, least, next: 0, clock: 0, epoch: 0 };
        Arc::new(Self { memory, state: Mutex::new(state) })
    }

    /// Keeps everybody else from moving weights.
    pub(in crate::backend) fn lock(&self) -> MutexGuard<'_, State<M::Buffer>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that is free, and that would be without weights, in bytes.
    ///
    /// # Errors
    /// If the device is lost.
    pub(in crate::backend) fn free_bytes(&self) -> Result<u64> {
        let resident = self.lock().resident_bytes();
        Ok(self.memory.free_bytes()?.saturating_add(resident))
    }

    /// Calls `allocate`, which takes `bytes`, and drops weights until there is room for it, but no chunk of which
    /// everything is what the caller `reads`.
    pub(super) fn make_room<T>(
        &self,
        state: &mut State<M::Buffer>,
        bytes: u64,
        reads: &dyn Fn(BlockId) -> bool,
        allocate: &dyn Fn() -> Result<T>,
    ) -> Result<T> {
        // No driver gives more in one piece, whatever makes room for it.
        if bytes > self.memory.limit() {
            return allocate();
        }
        while let Some(victim) = state.victim(reads) {
            // What is free need not be free in one piece, and others use the device too.
            if self.memory.free_bytes()? >= bytes {
                match allocate() {
                    Err(Error::DoesNotFit { .. }) => {}
                    done => return done,
                }
            }
            self.drop_chunk(state, victim)?;
        }
        allocate()
    }

    /// Drops chunks that nobody can ask for again: no program needs them, and the host has lost the tensors.
    pub(super) fn drop_unreachable(&self, state: &mut State<M::Buffer>) -> Result<()> {
        let reachable = |(_, id): &(u64, BlockId)| state.entries[id].users > 0 || state.entries[id].block.is_alive();
        let lost = state.chunks.iter().filter(|(_, chunk)| !chunk.blocks.iter().any(reachable));
        let lost: Vec<_> = lost.map(|(id, _)| *id).collect();
        lost.into_iter().try_for_each(|id| self.drop_chunk(state, id))
    }

    fn drop_chunk(&self, state: &mut State<M::Buffer>, id: ChunkId) -> Result<()> {
        // The device may be reading it, and memory is only free once it has finished.
        self.memory.wait()?;
        let Some(chunk) = state.chunks.remove(&id) else { return Ok(()) };
        state.epoch += u64::from(state.is_needed(&chunk));
        for (_, block) in &chunk.blocks {
            state.entry(*block).place = None;
            state.forget(*block);
        }
        Ok(())
    }

    /// Enqueues the upload of the next window of a chunk; whether there was one.
    pub(super) fn upload_window(&self, state: &mut State<M::Buffer>, id: ChunkId) -> Result<bool> {
        let chunk = &state.chunks[&id];
        let start = chunk.uploaded;
        let len = (chunk.bytes - start).min(self.memory.window());
        if len == 0 {
            return Ok(false);
        }
        let blocks: Vec<_> = chunk.blocks.iter().map(|(at, id)| (*at, &state.entries[id].block)).collect();
        // One thread alone cannot read as fast as a bus takes it.
        let fill = |window: &mut [u8]| {
            let pieces = window.par_chunks_mut(PIECE).enumerate();
            pieces.for_each(|(i, piece)| fill(&blocks, start + (i * PIECE) as u64, piece));
        };
        self.memory.upload(&chunk.buffer, start, len as usize, &fill)?;
        state.chunks.get_mut(&id).expect("it is there").uploaded += len;
        Ok(true)
    }
}
