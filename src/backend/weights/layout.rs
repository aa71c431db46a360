//! Blocks: what is uploaded as one tensor, how blocks are packed into one allocation, and their bytes.

use std::ops::Range;
use std::sync::{Arc, Weak};

use half::bf16;

use crate::tensor::{Bytes, Dtype, Part, Weight};

/// Weights start at multiples of this: any device can bind them there, and load them in 16 bytes.
pub(super) const ALIGN: u64 = 256;

/// Where a shard lies on the host, as [`Part::place`] says.
pub(super) type Source = (usize, Range<usize>);

/// One contiguous range of a block, and where its bytes come from. It does not keep them alive: programs do. As long as
/// the `Weak` lives, however, no other tensor can come to lie at the same address, so that two shards are the same
/// bytes exactly if their [sources](Shard::source) are equal.
struct Shard {
    bytes: Weak<dyn Bytes>,
    range: Range<usize>,
    /// What its elements are on the host.
    dtype: Dtype,
    /// For int8 weights: where the scale of each row is stored.
    scales: Option<Box<Shard>>,
}

impl Shard {
    fn of(part: &Part) -> Self {
        let scales = part.scales().map(|scales| Box::new(Self::of(scales)));
        Self { bytes: Arc::downgrade(part.source()), range: part.place().1, dtype: part.dtype(), scales }
    }

    /// The tensor, unless it is gone.
    fn part(&self) -> Option<Part> {
        let (bytes, range) = (self.bytes.upgrade()?, self.range.clone());
        Some(match &self.scales {
            Some(scales) => Part::int8(bytes, range, scales.part()?),
            None => Part::new(bytes, range, self.dtype),
        })
    }

    fn source(&self) -> Source {
        (self.bytes.as_ptr() as *const u8 as usize, self.range.clone())
    }

    /// Bytes that it takes on the device with elements of type `dtype`.
    fn len(&self, dtype: Dtype) -> u64 {
        (self.range.len() / self.dtype.bytes() * dtype.bytes()) as u64
    }

    /// Writes bytes `range` of it, as they are on the device with elements of type `dtype`, which is its own type, f32
    /// or bf16. Zeros, if the tensor is gone: nobody can ask for it any more.
    fn copy(&self, dtype: Dtype, range: Range<usize>, out: &mut [u8]) {
        let Some(part) = self.part() else { return out.fill(0) };
        if self.dtype == dtype {
            return out.copy_from_slice(&part.bytes()[range]);
        }
        // Upload windows, chunks of work and shards begin at whole elements.
        let size = dtype.bytes();
        let elements = part.elements().slice(range.start / size..range.end / size);
        for (i, bytes) in out.chunks_exact_mut(size).enumerate() {
            let value = elements.get(i);
            match dtype {
                Dtype::Bf16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                _ => bytes.copy_from_slice(&value.to_le_bytes()),
            }
        }
    }
}

/// A tensor as a device has it: a weight, whose shards are stacked. Other weights may be ranges of it.
pub(super) struct Block {
    shards: Vec<Shard>,
    dtype: Dtype,
    bytes: u64,
}

impl Block {
    /// A weight whose elements have this type on the device.
    pub(super) fn of(weight: &Weight, dtype: Dtype) -> Self {
        let shards: Vec<_> = weight.parts().iter().map(Shard::of).collect();
        let bytes = shards.iter().map(|shard| shard.len(dtype)).sum();
        Self { shards, dtype, bytes }
    }

    /// Bytes that it takes in an allocation, a multiple of [`ALIGN`].
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.next_multiple_of(ALIGN)
    }

    /// Where its shards come from.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> {
        self.shards.iter().map(Shard::source)
    }

    /// Whether the host still has the tensor, so that somebody may ask for it.
    pub(super) fn is_alive(&self) -> bool {
        self.shards.iter().all(|shard| shard.bytes.strong_count() > 0)
    }

    /// The offset in bytes at which this block holds a weight with elements of type `dtype`, as keys and values lie in
    /// queries, keys and values; `None` if it does not, or where a device could not bind it.
    pub(super) fn find(&self, weight: &Weight, dtype: Dtype) -> Option<u64> {
        let wanted: Vec<Source> = weight.parts().iter().map(Part::place).collect();
        let mut offset = 0;
        for (i, shard) in self.shards.iter().enumerate() {
            let there = self.shards[i..].iter().map(Shard::source).take(wanted.len());
            if self.dtype == dtype && offset % ALIGN == 0 && there.eq(wanted.iter().cloned()) {
                return Some(offset);
            }
            offset += shard.len(dtype);
        }
        None
    }
}

/// Offsets of blocks of `sizes` bytes, multiples of [`ALIGN`], in one allocation, as many of them as `limit` allows but
/// one at least; and its size.
pub(super) fn pack(sizes: impl IntoIterator<Item = u64>, limit: u64) -> (Vec<u64>, u64) {
    let (mut offsets, mut end) = (Vec::new(), 0);
    for size in sizes {
        if !offsets.is_empty() && end + size > limit {
            break;
        }
        offsets.push(end);
        end += size;
    }
    (offsets, end)
}

/// Writes the bytes of an allocation from `start` on to `out`: shards as they are on the host, or converted if the device
/// has them as another type, and zeros between blocks. `blocks` are in the order in which they lie there.
pub(super) fn fill(blocks: &[(u64, &Block)], start: u64, out: &mut [u8]) {
    let end = start + out.len() as u64;
    let first = blocks.partition_point(|(at, block)| at + block.bytes <= start);
    let mut done = 0;
    for (at, block) in blocks[first..].iter().take_while(|(at, _)| *at < end) {
        let mut at = *at;
        for shard in &block.shards {
            let len = shard.len(block.dtype);
            let (from, to) = (at.clamp(start, end), (at + len).clamp(start, end));
            if from < to {
                let inside = (from - start) as usize..(to - start) as usize;
                out[done..inside.start].fill(0);
                done = inside.end;
                shard.copy(block.dtype, (from - at) as usize..(to - at) as usize, &mut out[inside]);
            }
            at += len;
        }
    }
    out[done..].fill(0);
}
