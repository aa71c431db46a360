//! Where weights lie on a device, and their bytes as they go there.

use std::collections::HashMap;
use std::ops::Range;

use half::bf16;

use crate::plan::{Plan, Source};
use crate::tensor::{Dtype, Part, Weight};

/// Weights start at multiples of this: any device can bind them there, and load them in 16 bytes.
pub(super) const ALIGN: u64 = 256;

/// Where a weight lies.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Place {
    pub(super) buffer: usize,
    /// Bytes of the buffer.
    pub(in crate::backend) range: Range<u64>,
    /// What its elements are.
    pub(in crate::backend) dtype: Dtype,
}

/// Weights uploaded as one: a weight, and others that are ranges of it.
pub(super) struct Block {
    pub(super) weight: usize,
    pub(super) dtype: Dtype,
    /// Bit `p`: read by segment `p`.
    pub(super) segments: u64,
    pub(super) bytes: u64,
    pub(super) place: (usize, u64),
}

/// A buffer of blocks that the same segments read.
pub(super) struct Group {
    pub(super) segments: u64,
    pub(super) bytes: u64,
    /// In the order in which they lie there.
    pub(super) blocks: Vec<usize>,
}

/// For each weight, the segments that read it, as bits.
pub(super) fn segments_of(plan: &Plan) -> Vec<u64> {
    let mut segments = vec![0; plan.weights.len()];
    for (p, segment) in plan.segments.iter().enumerate() {
        for source in plan.nodes[segment.nodes.clone()].iter().flat_map(|node| node.inputs.iter().flatten()) {
            if let Source::Weight(w, _) = source {
                segments[*w] |= 1 << p;
            }
        }
    }
    segments
}

pub(super) fn bytes(weight: &Weight, dtype: Dtype) -> u64 {
    weight.parts().iter().map(|p| (p.elements().len() * dtype.bytes()) as u64).sum()
}

/// Writes a group's bytes from `start` on to `out`: parts as they lie in the map, or converted if the
/// device has them as another type; zeros between blocks.
pub(super) fn fill(weights: &[Weight], blocks: &[Block], group: &Group, start: u64, out: &mut [u8]) {
    let end = start + out.len() as u64;
    let first = group.blocks.partition_point(|&b| blocks[b].place.1 + blocks[b].bytes <= start);
    let mut done = 0;
    for block in group.blocks[first..].iter().map(|&b| &blocks[b]).take_while(|block| block.place.1 < end) {
        let mut at = block.place.1;
        for part in weights[block.weight].parts() {
            let len = (part.elements().len() * block.dtype.bytes()) as u64;
            let (from, to) = (at.clamp(start, end), (at + len).clamp(start, end));
            if from < to {
                let inside = (from - start) as usize..(to - start) as usize;
                out[done..inside.start].fill(0);
                done = inside.end;
                copy(part, block.dtype, (from - at) as usize..(to - at) as usize, &mut out[inside]);
            }
            at += len;
        }
    }
    out[done..].fill(0);
}

/// Bytes `range` of a part stored as `dtype`, which is its own type, f32 or bf16.
fn copy(part: &Part, dtype: Dtype, range: Range<usize>, out: &mut [u8]) {
    if part.dtype() == dtype {
        return out.copy_from_slice(&part.bytes()[range]);
    }
    // Windows, chunks and weights begin at whole elements.
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

/// The blocks to upload, and for each weight its block and byte offset in there. Weights whose
/// parts are neighbours in another's (keys and values, in queries, keys and values) lie inside it.
pub(super) fn blocks(weights: &[Weight], dtypes: &[Dtype], segments: &[u64]) -> (Vec<Block>, Vec<(usize, u64)>) {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&w| std::cmp::Reverse(weights[w].parts().len()));
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = vec![(0, 0); weights.len()];
    let mut known: HashMap<(usize, Range<usize>), (usize, usize, u64)> = HashMap::new();
    for w in order {
        let (weight, dtype) = (&weights[w], dtypes[w]);
        let parts = weight.parts();
        let home = known.get(&parts[0].place()).copied().filter(|&(block, first, offset)| {
            let other = &weights[blocks[block].weight].parts()[first..];
            let same = other.len() >= parts.len() && parts.iter().zip(other).all(|(a, b)| a.place() == b.place());
            same && blocks[block].dtype == dtype && offset % ALIGN == 0
        });
        if let Some((block, _, offset)) = home {
            blocks[block].segments |= segments[w];
            inside[w] = (block, offset);
            continue;
        }
        let mut offset = 0;
        for (i, part) in parts.iter().enumerate() {
            known.entry(part.place()).or_insert((blocks.len(), i, offset));
            offset += (part.elements().len() * dtype.bytes()) as u64;
        }
        inside[w] = (blocks.len(), 0);
        blocks.push(Block { weight: w, dtype, segments: segments[w], bytes: bytes(weight, dtype), place: (0, 0) });
    }
    (blocks, inside)
}

/// Gives each block its buffer and offset: one buffer for each set of segments, more where it would exceed `limit`.
/// Buffers are in the order of the first segment that reads them.
pub(super) fn group(blocks: &mut [Block], limit: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // In plan order within a set of segments.
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&b| (blocks[b].segments.trailing_zeros(), blocks[b].segments, blocks[b].weight));
    for b in order {
        let block = &mut blocks[b];
        let len = block.bytes.next_multiple_of(ALIGN);
        match groups.last_mut() {
            Some(last) if last.segments == block.segments && last.bytes + len <= limit => {
                block.place = (0, last.bytes);
                last.bytes += len;
                last.blocks.push(b);
            }
            _ => {
                block.place = (0, 0);
                groups.push(Group { segments: block.segments, bytes: len, blocks: vec![b] });
            }
        }
        block.place.0 = groups.len() - 1;
    }
    groups
}
