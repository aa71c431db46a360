//! Places every slot of a plan in one arena: slots whose lifetimes do not overlap share memory.

use std::ops::RangeInclusive;

use super::{Kind, Node, Plan, Recorder, Source, Storage};
use crate::ops::Element;

/// Offsets are multiples of this many elements: 256 bytes, which every GPU accepts as the offset of a binding.
const ALIGN: usize = 64;

/// A range of the arena, used by one slot after another where ops work in place.
struct Block {
    len: usize,
    /// First and last node between which its contents must not be overwritten.
    alive: RangeInclusive<usize>,
    offset: usize,
}

/// Places every slot greedily: the largest first, at the lowest offset that is free during its lifetime.
pub(super) fn place(mut recorder: Recorder) -> Plan {
    find_gemm_inputs(&mut recorder);
    let alive = lifetimes(&recorder);
    let block_of = share(&mut recorder, &alive);

    let mut blocks: Vec<Option<Block>> = alive.iter().map(|_| None).collect();
    for (slot, &b) in block_of.iter().enumerate() {
        let len = recorder.slots[slot].len;
        match &mut blocks[b] {
            Some(block) => {
                let (start, end) =
                    (*block.alive.start().min(alive[slot].start()), *block.alive.end().max(alive[slot].end()));
                block.alive = start..=end;
                block.len = block.len.max(len);
            }
            empty => *empty = Some(Block { len, alive: alive[slot].clone(), offset: 0 }),
        }
    }
    let arena_len = assign(&mut blocks);

    let offset = |slot: usize| blocks[block_of[slot]].as_ref().map_or(0, |b| b.offset);
    let slots = recorder.slots.iter().enumerate();
    let slots = slots.map(|(i, s)| Storage { element: s.element, len: s.len, offset: offset(i) }).collect();
    let Recorder { nodes, weights, segments, spans, .. } = recorder;
    let gemm_only = gemm_only_weights(&nodes, weights.len());
    let plan = Plan { nodes, slots, weights, gemm_only, segments, spans, arena_len };
    assert_disjoint(&plan);
    plan
}

/// Marks the slots that only GEMMs read, directly or through a concat. Such a slot may be stored in bf16, since its
/// readers would round it anyway. Inputs and kept slots stay f32, because the host reads or writes them.
fn find_gemm_inputs(recorder: &mut Recorder) {
    let mut read = vec![false; recorder.slots.len()];
    let mut otherwise = vec![false; recorder.slots.len()];
    // Walk backwards, so that the inputs of a concat inherit the storage type of its result.
    for node in recorder.nodes.iter().rev() {
        let out = node.output.id;
        let feeds_gemm = read[out] && !otherwise[out];
        if feeds_gemm && recorder.slots[out].kind == Kind::Temporary && recorder.slots[out].element == Element::F32 {
            recorder.slots[out].element = Element::GemmInput;
        }
        let feeds_gemm = recorder.slots[out].element == Element::GemmInput;
        for (i, source) in node.inputs.iter().enumerate() {
            if let Some(Source::Slot(slot)) = source {
                read[slot.id] = true;
                otherwise[slot.id] |= !node.op.feeds_gemm(i, feeds_gemm);
            }
        }
    }
}

/// For each weight, whether only GEMMs read it.
fn gemm_only_weights(nodes: &[Node], count: usize) -> Vec<bool> {
    let mut gemm_only = vec![true; count];
    for node in nodes {
        for (i, source) in node.inputs.iter().enumerate() {
            if let Some(Source::Weight(w, _)) = source {
                gemm_only[*w] &= node.op.feeds_gemm(i, false);
            }
        }
    }
    gemm_only
}

/// The lifetime of each slot: the first and last node between which its contents must not be overwritten.
///
/// A slot of one segment alone lives from its first use to its last. One that crosses segments, or that the
/// host touches, lives for whole spans: the segments of a span may run many times and in any order, and the
/// host acts between them.
fn lifetimes(recorder: &Recorder) -> Vec<RangeInclusive<usize>> {
    let segment_of = |node: usize| {
        let segment = recorder.segments.iter().find(|segment| segment.nodes.contains(&node));
        segment.expect("every node belongs to a segment")
    };
    let mut uses: Vec<Option<(usize, usize)>> = vec![None; recorder.slots.len()];
    for (i, node) in recorder.nodes.iter().enumerate() {
        let read = node.inputs.iter().flatten().filter_map(|source| match source {
            Source::Slot(slot) => Some(slot.id),
            Source::Weight(..) => None,
        });
        for slot in read.chain([node.output.id]) {
            uses[slot] = Some(uses[slot].map_or((i, i), |(first, _)| (first, i)));
        }
    }
    let alive = |(slot, span): (usize, &Option<(usize, usize)>)| {
        let Some((first, last)) = *span else { return 0..=0 };
        let (first_segment, last_segment) = (segment_of(first), segment_of(last));
        let kind = recorder.slots[slot].kind;
        if kind == Kind::Temporary && first_segment == last_segment {
            return first..=last;
        }
        // In a loop, nodes that stand before the first use may run after it.
        let span = &recorder.spans[first_segment.span];
        let in_loop = first_segment.repeats > 1 || *span != first_segment.nodes;
        let start = if kind == Kind::Input || in_loop { span.start } else { first };
        start..=recorder.spans[last_segment.span].end - 1
    };
    uses.iter().enumerate().map(alive).collect()
}

/// Lets the result of an op that works in place use the memory of an operand whose lifetime ends there. Returns
/// the block of each slot.
fn share(recorder: &mut Recorder, alive: &[RangeInclusive<usize>]) -> Vec<usize> {
    let mut block_of: Vec<usize> = (0..recorder.slots.len()).collect();
    for (i, node) in recorder.nodes.iter_mut().enumerate() {
        let Some(operand) = node.op.in_place() else { continue };
        let Some(Some(Source::Slot(from))) = node.inputs.get(operand) else { continue };
        let readers = node.inputs.iter().flatten().filter(|s| matches!(s, Source::Slot(slot) if slot.id == from.id));
        let dies_here = recorder.slots[from.id].kind == Kind::Temporary && *alive[from.id].end() == i;
        let [from_slot, to_slot] = [from.id, node.output.id].map(|id| &recorder.slots[id]);
        // Elements of another size would overlap their neighbours.
        let fits = from_slot.len == to_slot.len && from_slot.element == to_slot.element;
        if from.id != node.output.id && dies_here && fits && readers.count() == 1 {
            block_of[node.output.id] = block_of[from.id];
            node.aliased = Some(operand);
        }
    }
    block_of
}

/// Sets the offsets, and returns the length of the arena.
fn assign(blocks: &mut [Option<Block>]) -> usize {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|&i| blocks[i].is_some()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(blocks[i].as_ref().map_or(0, |b| b.len)));
    let mut placed: Vec<(usize, usize, RangeInclusive<usize>)> = Vec::new(); // offset, end, alive; by offset
    let mut arena_len = 0;
    for i in order {
        let Some(block) = &mut blocks[i] else { continue };
        let mut offset = 0;
        for (start, end, alive) in &placed {
            let overlaps = alive.start() <= block.alive.end() && block.alive.start() <= alive.end();
            if overlaps && offset + block.len > *start {
                offset = offset.max(end.next_multiple_of(ALIGN));
            }
        }
        block.offset = offset;
        arena_len = arena_len.max(offset + block.len);
        let at = placed.partition_point(|(start, ..)| *start < offset);
        placed.insert(at, (offset, offset + block.len, block.alive.clone()));
    }
    arena_len
}

/// No node's result may lie on one of its operands, unless the op works in place.
/// Graphics APIs do not check this for us.
fn assert_disjoint(plan: &Plan) {
    for node in &plan.nodes {
        let out = plan.slots[node.output.id].range();
        for (i, source) in node.inputs.iter().enumerate() {
            if let Some(Source::Slot(slot)) = source
                && node.aliased != Some(i)
            {
                let range = plan.slots[slot.id].range();
                assert!(
                    range.end <= out.start || out.end <= range.start,
                    "{}: {} would overwrite operand {i}",
                    node.at,
                    node.op.name()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Activation, Add, Concat, Function, Linear};
    use crate::plan::Slot;
    use crate::shape::Shape;
    use crate::tensor::Weight;

    const SILU: Activation = Activation { function: Function::Silu };

    #[test]
    fn a_chain_in_place_needs_one_slot() {
        let mut rec = Recorder::new();
        let x = rec.input(Shape::vector(100), Element::F32);
        let mut y = rec.node("first", SILU, &[Some(Source::Slot(x))]).unwrap();
        for _ in 0..10 {
            y = rec.node("next", SILU, &[Some(Source::Slot(y))]).unwrap();
        }
        let plan = rec.finish();
        // The input keeps its own memory, because the host owns it; the whole chain needs one more slot.
        assert_eq!(plan.arena_len, 128 + 100);
        assert!(plan.nodes[1..].iter().all(|n| n.aliased == Some(0)));
    }

    #[test]
    fn gemm_inputs_are_found() {
        let mut rec = Recorder::new();
        let source = |slot| Some(Source::Slot(slot));
        let x = rec.input(Shape::matrix(4, 16), Element::F32);
        let weight = rec.weight(Weight::from_f32("w", &[16, 32], vec![0.5; 512]));
        let linear = |x| {
            let mut inputs = vec![source(x), Some(weight)];
            inputs.resize(8, None);
            inputs
        };
        let silu = |rec: &mut Recorder, x| rec.node("silu", SILU, &[source(x)]).unwrap();
        let [left, right, stream] = [x; 3].map(|x| silu(&mut rec, x));
        let both = rec.node("both", Concat::Channels, &[source(left), source(right)]).unwrap();
        let product = Linear { function: Function::Identity };
        let kept = rec.node("product", product, &linear(both)).unwrap();
        rec.keep(kept);
        let wide = rec.node("wide", Concat::Channels, &[source(right), source(stream)]).unwrap();
        let result = rec.node("product", product, &linear(wide)).unwrap();
        rec.node("stream", Add, &[source(stream), source(result)]).unwrap();
        let plan = rec.finish();
        // `stream` is read by an addition too, `result` by nothing but that, and `kept` by the host.
        let gemm_inputs = [left, right, both, wide].map(|s| plan.slots[s.id].element);
        assert_eq!(gemm_inputs, [Element::GemmInput; 4]);
        let others = [x, stream, kept, result].map(|s| plan.slots[s.id].element);
        assert_eq!(others, [Element::F32; 4]);
    }

    #[test]
    fn slots_that_cross_segments_survive_repetition() {
        let mut rec = Recorder::new();
        rec.segment("once");
        let x = rec.input(Shape::vector(64), Element::F32);
        let constant = rec.node("constant", SILU, &[Some(Source::Slot(x))]).unwrap();
        rec.segment("loop");
        let y = rec.node("use", Add, &[Some(Source::Slot(constant)), Some(Source::Slot(x))]).unwrap();
        let z = rec.node("later", SILU, &[Some(Source::Slot(y))]).unwrap();
        let plan = rec.finish();
        let [constant, y, z] = [constant, y, z].map(|s| plan.slots[s.id].range());
        assert!(constant != y && constant != z, "the constant is needed when the loop runs again");
        assert_eq!(y, z);
    }

    /// In a loop whose segments run in any order, what one segment leaves for another survives all the others.
    #[test]
    fn slots_of_a_loop_survive_every_segment_of_it() {
        let mut rec = Recorder::new();
        let source = |slot| Some(Source::Slot(slot));
        let silu = |rec: &mut Recorder, x| rec.node("silu", SILU, &[source(x)]).unwrap();
        rec.segment("condition");
        let x = rec.input(Shape::vector(64), Element::F32);
        let condition = silu(&mut rec, x);
        let (mut cached, mut noise, mut scratch) = (None, None, Vec::new());
        rec.repeat(5, |rec| {
            rec.segment("preview");
            let a = rec.node("a", Add, &[source(x), source(condition)])?;
            scratch.push(silu(rec, a));
            rec.segment("refresh");
            cached = Some(silu(rec, condition));
            rec.segment("step");
            noise = Some(rec.input(Shape::vector(64), Element::F32));
            let y = rec.node("y", Add, &[source(cached.unwrap()), source(noise.unwrap())])?;
            scratch.push(silu(rec, y));
            Ok(())
        })
        .unwrap();
        rec.segment("after");
        let last = silu(&mut rec, x);
        let plan = rec.finish();
        assert_eq!(plan.spans, [0..1, 1..6, 6..7]);
        let repeats: Vec<_> = plan.segments.iter().map(|s| (s.name, s.repeats, s.span)).collect();
        assert_eq!(
            repeats,
            [("condition", 1, 0), ("preview", 5, 1), ("refresh", 5, 1), ("step", 5, 1), ("after", 1, 2)]
        );
        let range = |slot: Slot| plan.slots[slot.id].range();
        let disjoint = |a: Slot, b: Slot| range(a).end <= range(b).start || range(b).end <= range(a).start;
        let kept = [condition, cached.unwrap(), noise.unwrap()];
        for (i, a) in kept.iter().enumerate() {
            assert!(scratch.iter().chain(&kept[..i]).all(|b| disjoint(*a, *b)), "slot {i} is overwritten in the loop");
        }
        // Temporary slots of different segments share memory, and so does whatever comes after the loop.
        assert_eq!(range(scratch[0]), range(scratch[1]));
        assert!(!disjoint(last, condition) || !disjoint(last, kept[1]) || !disjoint(last, scratch[0]));
    }

    #[test]
    fn random_plans_never_lose_a_value() {
        // Each node writes its own number; when it is read, it must still be there.
        for seed in 0..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as usize % below
            };
            let mut rec = Recorder::new();
            let mut slots = vec![rec.input(Shape::vector(70), Element::F32)];
            for i in 0..40 {
                if i % 13 == 0 {
                    rec.segment("segment");
                }
                let [a, b] = [random(slots.len()), random(slots.len())].map(|j| Some(Source::Slot(slots[j])));
                slots.push(match random(2) {
                    0 => rec.node("silu", SILU, &[a]).unwrap(),
                    _ => rec.node("add", Add, &[a, b]).unwrap(),
                });
            }
            let plan = rec.finish();
            let mut owner = vec![usize::MAX; plan.arena_len.div_ceil(ALIGN) * ALIGN];
            owner[plan.slots[0].range()].fill(0);
            for node in &plan.nodes {
                for source in node.inputs.iter().flatten() {
                    let Source::Slot(slot) = source else { continue };
                    assert!(owner[plan.slots[slot.id].range()].iter().all(|&o| o == slot.id), "seed {seed}");
                }
                owner[plan.slots[node.output.id].range()].fill(node.output.id);
            }
        }
    }
}
