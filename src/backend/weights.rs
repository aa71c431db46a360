//! Weights in a device's memory, as [the plan says](Plan::weight_dtypes), mostly as in the file: what a compiled plan
//! needs of its device's [`Store`].
//!
//! A device has one store, and a tensor that is there is not uploaded again, whatever plan refers to it. If all weights
//! of a plan fit they stay; if not, those of the span that is about to run make other weights give way: a loop's segments
//! have theirs together. Either way they are uploaded when the span that reads them is about to run, or
//! [before](Weights::upload_ahead), in the plan's order.

mod layout;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::Residency;
use crate::error::{Error, Result};
use crate::plan::{Plan, Source};
use crate::tensor::{Dtype, Weight};
use layout::pack;
use store::{BlockId, Chunk, ChunkId};
pub(super) use store::{State, Store};

/// A device's memory, as far as weights are concerned.
pub(super) trait Memory: Send + Sync {
    /// A part of it, which is given back when the last clone is dropped.
    type Buffer: Clone + Send;

    /// Bytes that any buffer may have.
    fn limit(&self) -> u64;

    /// Bytes that are free now.
    ///
    /// # Errors
    /// If the device is lost.
    fn free_bytes(&self) -> Result<u64>;

    /// The error of a request for `need` bytes that cannot be met.
    fn does_not_fit(&self, need: u64, detail: &str) -> Error;

    /// Most bytes of one [`upload`](Self::upload), which bounds its staging memory.
    fn window(&self) -> u64;

    /// A buffer for weights.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if there is no memory for it, others if the device fails.
    fn allocate(&self, bytes: u64) -> Result<Self::Buffer>;

    /// Lets `fill` write `len` bytes, all of them and in any order, and enqueues a copy of them to offset `at` of a
    /// buffer. Both are multiples of [`ALIGN`](layout::ALIGN).
    fn upload(&self, buffer: &Self::Buffer, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Result<()>;

    /// What is enqueued from now on finds the uploads before this done.
    fn order(&self) -> Result<()>;

    /// Waits until everything enqueued has been done; what is dropped then is free at once.
    fn wait(&self) -> Result<()>;
}

/// For each weight of a plan, the [spans](Plan::spans) that read it, in ascending order.
fn readers(plan: &Plan) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); plan.weights.len()];
    for (s, span) in plan.spans.iter().enumerate() {
        for source in plan.nodes[span.clone()].iter().flat_map(|node| node.inputs.iter().flatten()) {
            if let Source::Weight(w, _) = source
                && readers[*w].last() != Some(&s)
            {
                readers[*w].push(s);
            }
        }
    }
    readers
}

/// Where a weight lies.
struct Within {
    block: BlockId,
    /// Bytes of the block.
    range: Range<u64>,
    dtype: Dtype,
}

/// The weights of a compiled plan. While this lives, the store knows that they are needed.
pub(super) struct Weights<M: Memory> {
    store: Arc<Store<M>>,
    /// The program's number in the store.
    id: usize,
    /// It keeps the tensors, too, from which weights are uploaded.
    plan: Arc<Plan>,
    /// For each weight; `None` if no node reads it.
    within: Vec<Option<Within>>,
    /// The blocks in the order in which they are uploaded, each with the spans that read it.
    blocks: Vec<(Vec<usize>, BlockId)>,
    /// Index into `blocks`.
    index: HashMap<BlockId, usize>,
    /// For each span that has been prepared, the epoch in which it was, and its chunks.
    prepared: Vec<Option<(u64, Vec<ChunkId>)>>,
    residency: Residency,
}

impl<M: Memory> Weights<M> {
    /// What `plan` needs; uploads and allocates nothing. `stores_bf16` as for the device.
    pub(super) fn new(store: &Arc<Store<M>>, plan: Arc<Plan>, stores_bf16: bool) -> Self {
        let (readers, dtypes) = (readers(&plan), plan.weight_dtypes(stores_bf16));
        let mut state = store.lock();
        let id = state.number();
        // First those of many shards: others may lie inside them.
        let mut order: Vec<usize> = (0..plan.weights.len()).filter(|w| !readers[*w].is_empty()).collect();
        order.sort_by_key(|&w| std::cmp::Reverse(plan.weights[w].parts().len()));
        let mut within: Vec<Option<Within>> = plan.weights.iter().map(|_| None).collect();
        let mut found: HashMap<BlockId, (Vec<usize>, usize)> = HashMap::new();
        for w in order {
            let (block, start) = state.require(&plan.weights[w], dtypes[w], |block| found.contains_key(&block));
            // Bindings are whole words.
            let end = start + bytes(&plan.weights[w], dtypes[w]).next_multiple_of(4);
            within[w] = Some(Within { block, range: start..end, dtype: dtypes[w] });
            let (spans, first) = found.entry(block).or_insert_with(|| (Vec::new(), w));
            spans.extend(&readers[w]);
            spans.sort_unstable();
            spans.dedup();
            *first = w.min(*first);
        }
        drop(state);
        let mut blocks: Vec<_> = found.into_iter().map(|(block, (spans, first))| (spans, first, block)).collect();
        blocks.sort_unstable();
        let blocks: Vec<_> = blocks.into_iter().map(|(spans, _, block)| (spans, block)).collect();
        let index = blocks.iter().enumerate().map(|(i, (_, block))| (*block, i)).collect();
        let (store, prepared) = (store.clone(), vec![None; plan.spans.len()]);
        Self { store, id, plan, within, blocks, index, prepared, residency: Residency::Turns }
    }

    fn within(&self, w: usize) -> &Within {
        self.within[w].as_ref().expect("a node reads it")
    }

    /// What the elements of weight `w` are on the device.
    pub(super) fn dtype(&self, w: usize) -> Dtype {
        self.within(w).dtype
    }

    /// Bytes of weight `w` there, in whole words.
    pub(super) fn bytes(&self, w: usize) -> u64 {
        let range = &self.within(w).range;
        range.end - range.start
    }

    /// The buffer that weight `w` lies in, and its bytes there. A segment that reads it has been
    /// [prepared](Self::prepare), under the same lock.
    pub(super) fn at(&self, state: &State<M::Buffer>, w: usize) -> (M::Buffer, Range<u64>) {
        let Within { block, range, .. } = self.within(w);
        let (chunk, at) = state.place(*block).expect("the weight's segment is prepared");
        (state.buffer(chunk).clone(), at + range.start..at + range.end)
    }

    /// The store, whose lock everything else is done under.
    pub(super) fn store(&self) -> Arc<Store<M>> {
        self.store.clone()
    }

    /// Where they are while the program runs.
    pub(super) fn residency(&self) -> Residency {
        self.residency
    }

    fn is_read_by(&self, span: Option<usize>) -> impl Fn(BlockId) -> bool {
        move |block| self.index.get(&block).is_some_and(|&i| span.is_none_or(|s| self.blocks[i].0.contains(&s)))
    }

    /// Decides whether they stay, beside `around` bytes of other things that the program takes, and allocates memory for
    /// them if they do. Weights that no program needs count as free; if segments take turns, so do all others.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if this program, or another of the device, would then have no room for those of its spans
    /// that reads most; and errors of the device.
    pub(super) fn reserve(&mut self, around: u64) -> Result<()> {
        let store = self.store();
        let mut state = store.lock();
        store.drop_unreachable(&mut state)?;
        let free = store.memory.free_bytes()?;
        let sum = |counts: &dyn Fn(BlockId) -> bool| -> u64 {
            self.blocks.iter().map(|(_, block)| *block).filter(|b| counts(*b)).map(|b| state.bytes(b)).sum()
        };
        let missing = sum(&|block| state.place(block).is_none());
        let own = (0..self.plan.spans.len()).map(|s| sum(&self.is_read_by(Some(s)))).max().unwrap_or(0);
        let least = own.max(state.least.values().copied().max().unwrap_or(0));
        if around + least > free.saturating_add(state.resident_bytes()) {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let detail = format!("{} MiB of activations and {} MiB of weights of one stage", mib(around), mib(least));
            return Err(store.memory.does_not_fit(around + least, &detail));
        }
        state.least.insert(self.id, own);
        if around + missing <= free.saturating_add(state.unneeded_bytes()) {
            self.residency = match self.allocate(&mut state, None) {
                // The device has less than it said. What was allocated stays until there is no room for something else.
                Err(Error::DoesNotFit { .. }) => Residency::Turns,
                allocated => allocated.map(|()| Residency::All)?,
            };
        }
        Ok(())
    }

    /// Calls `allocate`, which takes `bytes` of the device's memory for something else, and drops weights until there is
    /// room for it.
    pub(super) fn make_room<T>(&self, bytes: u64, allocate: impl Fn() -> Result<T>) -> Result<T> {
        self.store.make_room(&mut self.store.lock(), bytes, &|_| false, &allocate)
    }

    /// Allocates memory for what is not on the device of the blocks that a span reads, or of all.
    fn allocate(&self, state: &mut State<M::Buffer>, span: Option<usize>) -> Result<()> {
        let (memory, reads) = (&self.store.memory, self.is_read_by(span));
        let limit = memory.limit().min(1 << 30);
        // What is dropped to make room may hold some of them too: look again after each.
        loop {
            let mut missing = self.blocks.iter().filter(|(_, id)| reads(*id) && state.place(*id).is_none()).peekable();
            // Those that the same spans read are needed, and not needed, at the same times.
            let Some((spans, _)) = missing.peek().copied() else { return Ok(()) };
            let together: Vec<_> = missing.take_while(|(s, _)| s == spans).map(|(_, id)| *id).collect();
            let (offsets, bytes) = pack(together.iter().map(|id| state.bytes(*id)), limit);
            let buffer = self.store.make_room(state, bytes, &reads, &|| memory.allocate(bytes))?;
            // Making room may have dropped no block of these: they were not there.
            state.add(buffer, bytes, offsets.into_iter().zip(together).collect());
        }
    }

    /// The chunks that hold what a span reads, in the order in which they are uploaded.
    fn chunks(&self, state: &State<M::Buffer>, span: usize) -> Vec<ChunkId> {
        let mut chunks: Vec<ChunkId> = Vec::new();
        for (_, block) in self.blocks.iter().filter(|(spans, _)| spans.contains(&span)) {
            let (chunk, _) = state.place(*block).expect("what the span reads was allocated");
            if !chunks.contains(&chunk) {
                chunks.push(chunk);
            }
        }
        chunks
    }

    /// Enqueues the upload of what a segment reads and is not on the device, with all that its span reads, so that what
    /// is enqueued after it finds it. Other weights make room if they must. Returns the epoch: whenever it is another
    /// one, weights may be elsewhere.
    pub(super) fn prepare(&mut self, state: &mut State<M::Buffer>, segment: usize) -> Result<u64> {
        let span = self.plan.segments[segment].span;
        if let Some((epoch, chunks)) = &self.prepared[span]
            && *epoch == state.epoch
        {
            state.touch(chunks);
            return Ok(state.epoch);
        }
        self.allocate(state, Some(span))?;
        let chunks = self.chunks(state, span);
        for chunk in &chunks {
            while self.store.upload_window(state, *chunk)? {}
        }
        let unordered = |id: &ChunkId| !state.chunks[id].ordered;
        if chunks.iter().any(unordered) {
            self.store.memory.order()?;
        }
        for id in &chunks {
            state.chunks.get_mut(id).expect("it was allocated").ordered = true;
        }
        state.touch(&chunks);
        self.prepared[span] = Some((state.epoch, chunks));
        Ok(state.epoch)
    }

    /// Enqueues the upload of one window more of what has memory and is not there, in the plan's order; whether there
    /// was any.
    pub(super) fn upload_ahead(&self) -> Result<bool> {
        let mut state = self.store.lock();
        let first_reader = |chunk: &Chunk<M::Buffer>| {
            chunk.blocks.iter().filter_map(|(_, block)| self.index.get(block)).min().copied()
        };
        let incomplete = state.chunks.iter().filter(|(_, chunk)| !chunk.is_complete());
        let next = incomplete.filter_map(|(id, chunk)| Some((first_reader(chunk)?, *id))).min();
        next.map_or(Ok(false), |(_, id)| self.store.upload_window(&mut state, id))
    }
}

impl<M: Memory> Drop for Weights<M> {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        state.least.remove(&self.id);
        self.blocks.iter().for_each(|(_, block)| state.release(*block));
    }
}

/// Bytes of a weight with elements of this type.
fn bytes(weight: &Weight, dtype: Dtype) -> u64 {
    weight.parts().iter().map(|part| (part.elements().len() * dtype.bytes()) as u64).sum()
}
