//! Weights in the device's memory, as [the plan says](Plan::weight_dtypes), mostly as in the file: what lies where, and which of it is there.
//!
//! Weights that the same segments read share buffers, which come and go together. If everything fits it
//! stays; if not, a segment's buffers replace those of the segment before. Either way bytes are handed over
//! when the segment that reads them is about to run, or [before](Weights::upload_ahead), in the plan's order.

mod layout;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::Residency;
use crate::error::Result;
use crate::plan::Plan;
use crate::tensor::{Identity, Weight};
use layout::{Block, Group, Place, blocks, bytes, fill, group, segments_of};

/// A device's memory, as far as weights are concerned.
pub(super) trait Memory {
    /// A piece of it.
    type Buffer: Clone;

    /// Bytes that a buffer may have.
    fn limit(&self) -> u64;

    /// Most bytes of one [`upload`](Self::upload), which bounds its staging memory.
    fn window(&self) -> u64;

    /// A buffer for weights.
    fn allocate(&self, bytes: u64) -> Result<Self::Buffer>;

    /// Lets `fill` write `len` bytes, all of them and in any order, and hands them over, to be copied to
    /// offset `at` of a buffer. Both are multiples of [`ALIGN`].
    fn upload(&self, buffer: &Self::Buffer, at: u64, len: usize, fill: &dyn Fn(&mut [u8])) -> Result<()>;

    /// What is handed over from now on finds the uploads before this done.
    fn order(&self) -> Result<()>;

    /// Waits until everything handed over has been done; what is dropped then is free at once.
    fn wait(&self) -> Result<()>;
}

/// Bytes that one thread fills at a time.
const CHUNK: usize = 1 << 20;

/// A group's buffer on the device.
struct Resident<B> {
    buffer: B,
    /// Bytes handed over, from its beginning.
    handed: u64,
    /// Whether work finds all of them there.
    ordered: bool,
}

/// What is on the device.
struct State<B> {
    /// For each group.
    groups: Vec<Option<Resident<B>>>,
    /// Counts how often buffers were dropped: addresses noted before that are of no use.
    epoch: u64,
}

/// The weights of the plan compiled last: another size of the same model needs the same.
pub(super) struct Latest<M: Memory>(Mutex<Option<Arc<Weights<M>>>>);

impl<M: Memory> Default for Latest<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M: Memory> Latest<M> {
    /// The weights of `plan`: those already here, if they are the same. `stores_bf16` as for the device.
    pub(super) fn of(&self, memory: &Arc<M>, plan: &Plan, stores_bf16: bool) -> Arc<Weights<M>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref() {
            Some(weights) if weights.key == key(plan) => weights.clone(),
            _ => {
                // First let go of the old.
                *known = None;
                known.insert(Arc::new(Weights::new(memory.clone(), plan, stores_bf16))).clone()
            }
        }
    }

    /// Bytes of the device's memory that these weights take.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |weights| weights.resident_bytes())
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
    state: Mutex<State<M::Buffer>>,
}

/// What a plan's weights are: equal for plans that can share them.
fn key(plan: &Plan) -> Vec<(Identity, u64)> {
    plan.weights.iter().map(Weight::identity).zip(segments_of(plan)).collect()
}

impl<M: Memory> Weights<M> {
    /// Decides where each weight of `plan` will lie; uploads nothing.
    fn new(memory: Arc<M>, plan: &Plan, stores_bf16: bool) -> Self {
        let segments = segments_of(plan);
        let (mut blocks, inside) = blocks(&plan.weights, &plan.weight_dtypes(stores_bf16), &segments);
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
        let state = Mutex::new(State { groups: groups.iter().map(|_| None).collect(), epoch: 0 });
        Self { memory, weights: plan.weights.clone(), key: key(plan), places, blocks, groups, state }
    }

    /// Where weight `w` lies.
    pub(super) fn place(&self, w: usize) -> &Place {
        &self.places[w]
    }

    /// Bytes of all weights.
    fn bytes(&self) -> u64 {
        self.groups.iter().map(|g| g.bytes).sum()
    }

    /// Bytes of the weights that one segment reads, for the segment that reads most.
    fn largest_segment_bytes(&self) -> u64 {
        let of = |p: usize| self.groups.iter().filter(|g| g.segments >> p & 1 == 1).map(|g| g.bytes).sum();
        (0..u64::BITS as usize).map(of).max().unwrap_or(0)
    }

    /// Bytes of the device's memory that they take now.
    pub(super) fn resident_bytes(&self) -> u64 {
        let state = self.state();
        self.groups.iter().zip(&state.groups).filter(|(_, there)| there.is_some()).map(|(group, _)| group.bytes).sum()
    }

    /// What of them can stay, beside `around` bytes of other things, where `free` bytes can be had, those
    /// that they take now included; or the bytes that must be free at least, with what for.
    pub(super) fn residency(&self, around: u64, free: u64) -> std::result::Result<Residency, (u64, String)> {
        let segment = self.largest_segment_bytes();
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        match () {
            () if around + self.bytes() <= free => Ok(Residency::All),
            () if around + segment <= free => Ok(Residency::Turns),
            () => Err((
                around + segment,
                format!("{} MiB of activations and {} MiB of weights of one stage", mib(around), mib(segment)),
            )),
        }
    }

    /// The buffer of a place. Its segment has been [prepared](Self::prepare).
    pub(super) fn buffer(&self, place: &Place) -> M::Buffer {
        let state = self.state();
        state.groups[place.buffer].as_ref().expect("the weight's segment is resident").buffer.clone()
    }

    fn state(&self) -> MutexGuard<'_, State<M::Buffer>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets memory for all of them if they all stay; if stages take turns, gives back what they have, which
    /// was counted as free.
    pub(super) fn reserve(&self, residency: Residency) -> Result<()> {
        let mut state = self.state();
        match residency {
            Residency::Turns => self.drop_all(&mut state, |_| true),
            _ => self.allocate(&mut state, |group| group.segments != 0),
        }
    }

    fn drop_all(
        &self,
        State { groups, epoch }: &mut State<M::Buffer>,
        unwanted: impl Fn(&Group) -> bool,
    ) -> Result<()> {
        let mut there = self.groups.iter().zip(groups).filter(|(group, there)| unwanted(group) && there.is_some());
        if let Some(first) = there.next() {
            // The device may be reading them, and memory is only free once it has finished.
            self.memory.wait()?;
            *epoch += 1;
            std::iter::once(first).chain(there).for_each(|(_, there)| *there = None);
        }
        Ok(())
    }

    fn allocate(&self, state: &mut State<M::Buffer>, wanted: impl Fn(&Group) -> bool) -> Result<()> {
        for (group, there) in self.groups.iter().zip(&mut state.groups) {
            if wanted(group) && there.is_none() {
                *there = Some(Resident { buffer: self.memory.allocate(group.bytes)?, handed: 0, ordered: false });
            }
        }
        Ok(())
    }

    /// Hands over what segment `p` reads and is not there, so that what is handed over after it finds it. If
    /// stages take turns, what the segment does not read makes room. Returns the epoch: whenever it is
    /// another one, buffers are elsewhere.
    pub(super) fn prepare(&self, p: usize, residency: Residency) -> Result<u64> {
        let mut state = self.state();
        let reads = |group: &Group| group.segments >> p & 1 == 1;
        if residency == Residency::Turns {
            self.drop_all(&mut state, |group| !reads(group))?;
        }
        self.allocate(&mut state, reads)?;
        let mut ordered = true;
        for (i, group) in self.groups.iter().enumerate().filter(|(_, group)| reads(group)) {
            while self.upload_window(group, &mut state.groups[i])? {}
            let there = state.groups[i].as_mut().expect("it was allocated");
            ordered &= std::mem::replace(&mut there.ordered, true);
        }
        if !ordered {
            self.memory.order()?;
        }
        Ok(state.epoch)
    }

    /// Hands over one window more of what has room and is not there, in the plan's order; whether there was any.
    pub(super) fn upload_ahead(&self) -> Result<bool> {
        let mut state = self.state();
        for (group, there) in self.groups.iter().zip(&mut state.groups) {
            if self.upload_window(group, there)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands over the next window of a group; whether there was one.
    fn upload_window(&self, group: &Group, there: &mut Option<Resident<M::Buffer>>) -> Result<bool> {
        let Some(there) = there.as_mut().filter(|there| there.handed < group.bytes) else { return Ok(false) };
        let (blocks, weights, start) = (&self.blocks, &self.weights, there.handed);
        let len = (group.bytes - start).min(self.memory.window());
        // One thread alone cannot read as fast as a bus takes it.
        let fill = |window: &mut [u8]| {
            let chunks = window.par_chunks_mut(CHUNK).enumerate();
            chunks.for_each(|(i, chunk)| fill(weights, blocks, group, start + (i * CHUNK) as u64, chunk));
        };
        self.memory.upload(&there.buffer, start, len as usize, &fill)?;
        there.handed += len;
        Ok(true)
    }
}
