//! The store on a memory that counts: what is uploaded, what gives way, and that a program reads what it should.
#![cfg(test)]

mod any_order;
mod fake;

use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;

use half::bf16;

use super::*;
use crate::ops::{Element, Function, Linear};
use crate::plan::Recorder;
use crate::shape::Shape;
use fake::{Buffer, Fake};

/// Columns of every tensor: a row is 256 bytes, or 128 in bf16, where odd rows are no place for a weight to begin.
const SIDE: usize = 64;
/// Bytes of a row.
const ROW: u64 = 4 * SIDE as u64;

/// A tensor of so many rows, none like another's.
fn tensor(seed: usize, rows: usize) -> Weight {
    let values = (0..rows * SIDE).map(|i| (seed * 1000 + i) as f32 / 7.0).collect();
    Weight::from_f32(format!("tensor {seed}"), &[rows, SIDE], values)
}

/// A plan whose segments read these weights.
fn plan(segments: &[Vec<Weight>]) -> Arc<Plan> {
    plan_with_loop(0, segments)
}

/// The same, the first so many segments in a loop.
fn plan_with_loop(looped: usize, segments: &[Vec<Weight>]) -> Arc<Plan> {
    let mut rec = Recorder::new();
    let x = rec.input(Shape::matrix(1, SIDE), Element::F32);
    let record = |rec: &mut Recorder, weights: &Vec<Weight>| -> Result<()> {
        rec.segment("segment");
        for weight in weights {
            let mut inputs = vec![Some(Source::Slot(x)), Some(rec.weight(weight.clone()))];
            inputs.resize(8, None);
            rec.node("linear", Linear { function: Function::Identity }, &inputs)?;
        }
        Ok(())
    };
    let (first, others) = segments.split_at(looped);
    if looped > 0 {
        rec.repeat(2, |rec| first.iter().try_for_each(|weights| record(rec, weights))).unwrap();
    }
    others.iter().try_for_each(|weights| record(&mut rec, weights)).unwrap();
    Arc::new(rec.finish())
}

/// The weights that nodes read.
fn read_by(plan: &Plan, nodes: Range<usize>) -> Vec<usize> {
    let weight = |source: &Source| match *source {
        Source::Weight(w, _) => Some(w),
        Source::Slot(_) => None,
    };
    plan.nodes[nodes].iter().flat_map(|node| node.inputs.iter().flatten().filter_map(weight)).collect()
}

/// Bytes of weights that must be on the device for the span that reads most.
fn least(plan: &Plan, weights: &Weights<Fake>) -> u64 {
    let sum = |span: &Range<usize>| -> u64 {
        let mut blocks: Vec<_> = read_by(plan, span.clone()).into_iter().map(|w| weights.within(w).block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks.into_iter().map(|block| weights.store.lock().bytes(block)).sum()
    };
    plan.spans.iter().map(sum).max().unwrap_or(0)
}

struct Program {
    plan: Arc<Plan>,
    weights: Weights<Fake>,
    _arena: Arc<Buffer>,
    arena_bytes: u64,
    /// The epoch of the last call, and where weights were since it began.
    seen: (u64, Vec<Weak<Buffer>>),
}

impl Program {
    fn compile(store: &Arc<Store<Fake>>, plan: &Arc<Plan>, arena_bytes: u64, stores_bf16: bool) -> Result<Self> {
        let mut weights = Weights::new(store, plan.clone(), stores_bf16);
        weights.reserve(arena_bytes)?;
        let arena = weights.make_room(arena_bytes, || store.memory.buffer(arena_bytes, Weak::new()))?;
        Ok(Self { plan: plan.clone(), weights, _arena: arena, arena_bytes, seen: Default::default() })
    }

    /// Prepares a segment and reads its weights where they are said to be.
    fn run(&mut self, segment: usize) -> Result<()> {
        let store = self.weights.store();
        let mut state = store.lock();
        let epoch = self.weights.prepare(&mut state, segment)?;
        if self.seen.0 != epoch {
            self.seen = (epoch, Vec::new());
        }
        assert!(self.seen.1.iter().all(|noted| noted.strong_count() > 0), "addresses of this epoch are still good");
        for w in read_by(&self.plan, self.plan.segments[segment].nodes.clone()) {
            let (buffer, range) = self.weights.at(&state, w);
            let values = self.plan.weights[w].to_f32();
            let want: Vec<u8> = match self.weights.dtype(w) {
                Dtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            let bytes = buffer.bytes.lock().unwrap();
            assert_eq!(bytes[range.start as usize..range.end as usize], want, "weight {w} of segment {segment}");
            assert_eq!(range.start % layout::ALIGN, 0);
            drop(bytes);
            self.seen.1.push(Arc::downgrade(&buffer));
        }
        store.memory.busy.store(true, Relaxed);
        Ok(())
    }

    fn run_all(&mut self) {
        (0..self.plan.segments.len()).for_each(|segment| self.run(segment).unwrap());
    }
}

/// Rows that were uploaded since this was asked last.
fn uploaded(store: &Store<Fake>) -> u64 {
    store.memory.uploaded.swap(0, Relaxed) / ROW
}

#[test]
fn a_second_plan_uploads_only_what_is_new() {
    let store = Fake::store(u64::MAX);
    let [text, c, b] = [1, 2, 3].map(|seed| tensor(seed, 10 * seed));
    let prior = plan(&[vec![text.clone()], vec![c.clone()]]);
    let mut first = Program::compile(&store, &prior, ROW, false).unwrap();
    first.run_all();
    assert_eq!(uploaded(&store), 30);
    // The whole, with a segment more before those that are known.
    let whole = plan(&[vec![tensor(4, 5)], vec![text.clone()], vec![c.clone(), text], vec![b]]);
    let mut second = Program::compile(&store, &whole, 2 * ROW, false).unwrap();
    second.run_all();
    assert_eq!(uploaded(&store), 35);
    // Other sizes, beside them and after them.
    let mut third = Program::compile(&store, &whole, 3 * ROW, false).unwrap();
    [&mut first, &mut third, &mut second].into_iter().for_each(Program::run_all);
    drop((first, second, third));
    Program::compile(&store, &prior, 4 * ROW, false).unwrap().run_all();
    assert_eq!(uploaded(&store), 0);
    assert_eq!(store.memory.taken.load(Relaxed), 65 * ROW);
}

#[test]
fn where_the_device_has_less_than_it_says_spans_take_turns() {
    let plan = plan(&[vec![tensor(1, 10)], vec![tensor(2, 10)], vec![tensor(3, 10)]]);
    for (hidden, residency) in [(0, Residency::All), (15, Residency::Turns)] {
        let store = Fake::store(31 * ROW);
        store.memory.hidden.store(hidden * ROW, Relaxed);
        let mut program = Program::compile(&store, &plan, ROW, false).unwrap();
        assert_eq!(program.weights.residency(), residency);
        program.run_all();
        program.run_all();
    }
}

#[test]
fn a_weight_in_another_type_is_another() {
    let store = Fake::store(u64::MAX);
    let plan = plan(&[vec![tensor(1, 8)]]);
    let mut exact = Program::compile(&store, &plan, ROW, false).unwrap();
    let mut rounded = Program::compile(&store, &plan, ROW, true).unwrap();
    [&mut exact, &mut rounded].into_iter().for_each(Program::run_all);
    assert_eq!(uploaded(&store), 8 + 4);
}

#[test]
fn weights_are_found_inside_a_stack_of_them() {
    let [q, k, v] = [1, 2, 3].map(|seed| tensor(seed, 2));
    let qkv = Weight::stack(&[q.clone(), k.clone(), v.clone()]);
    let kv = Weight::stack(&[k.clone(), v.clone()]);
    let store = Fake::store(u64::MAX);
    let mut stacked = Program::compile(&store, &plan(&[vec![kv.clone()], vec![qkv.clone()]]), ROW, false).unwrap();
    stacked.run_all();
    assert_eq!(uploaded(&store), 6);
    let mut apart = Program::compile(&store, &plan(&[vec![v.clone(), k.clone(), q.clone()]]), ROW, false).unwrap();
    apart.run_all();
    assert_eq!(uploaded(&store), 0);
    // Stacked in another order they are another block.
    let mut reversed = Program::compile(&store, &plan(&[vec![Weight::stack(&[v, k])]]), ROW, false).unwrap();
    reversed.run_all();
    assert_eq!(uploaded(&store), 4);
    // So is a stack of which only a part is there.
    let store = Fake::store(u64::MAX);
    let mut part = Program::compile(&store, &plan(&[vec![kv]]), ROW, false).unwrap();
    let mut whole = Program::compile(&store, &plan(&[vec![qkv]]), ROW, false).unwrap();
    [&mut part, &mut whole].into_iter().for_each(Program::run_all);
    assert_eq!(uploaded(&store), 4 + 6);
}

#[test]
fn of_the_blocks_that_hold_a_weight_one_that_is_needed_or_there_is_taken() {
    let [q, k, v] = [1, 2, 3].map(|seed| tensor(seed, 2));
    let (qkv, kv) = (Weight::stack(&[q, k.clone(), v.clone()]), Weight::stack(&[k.clone(), v]));
    let store = Fake::store(14 * ROW);
    let mut part = Program::compile(&store, &plan(&[vec![kv.clone()]]), ROW, false).unwrap();
    part.run_all();
    // It needs all three anyway.
    let whole = Program::compile(&store, &plan(&[vec![kv, qkv], vec![tensor(4, 10)]]), ROW, false).unwrap();
    assert_eq!((whole.weights.residency(), whole.weights.blocks.len()), (Residency::Turns, 2));
    // Of both blocks that hold this one, only the first is on the device.
    uploaded(&store);
    Program::compile(&store, &plan(&[vec![k]]), ROW, false).unwrap().run_all();
    assert_eq!(uploaded(&store), 0);
}

#[test]
fn what_was_not_used_for_longest_gives_way_first() {
    let store = Fake::store(21 * ROW);
    let plan = plan(&[1, 2, 3].map(|seed| vec![tensor(seed, 10)]));
    let mut program = Program::compile(&store, &plan, ROW, false).unwrap();
    for (segment, rows) in [(0, 10), (1, 10), (0, 0), (2, 10), (0, 0), (1, 10), (0, 0), (2, 10)] {
        program.run(segment).unwrap();
        assert_eq!(uploaded(&store), rows, "segment {segment}");
    }
}

#[test]
fn segments_of_a_loop_have_their_weights_together() {
    let store = Fake::store(24 * ROW);
    let plan = plan_with_loop(2, &[1, 2, 3].map(|seed| vec![tensor(seed, 10)]));
    let mut program = Program::compile(&store, &plan, 4 * ROW, false).unwrap();
    assert_eq!(program.weights.residency(), Residency::Turns);
    for (segment, rows) in [(1, 20), (0, 0), (1, 0), (2, 10), (0, 20), (1, 0)] {
        // What makes room for the third segment is one chunk of both.
        program.run(segment).unwrap();
        assert_eq!(uploaded(&store), rows, "segment {segment}");
    }
    drop(program);
    let Err(error) = Program::compile(&store, &plan, 5 * ROW, false) else { panic!("both do not fit") };
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn what_is_read_in_part_gives_way_last() {
    let store = Fake::store(17 * ROW);
    let [a, b, c, d] = [1, 2, 3, 4].map(|seed| tensor(seed, 5));
    let mut first = Program::compile(&store, &plan(&[vec![a.clone(), b], vec![d]]), ROW, false).unwrap();
    first.run_all();
    uploaded(&store);
    let mut second = Program::compile(&store, &plan(&[vec![a, c]]), ROW, false).unwrap();
    second.run_all();
    assert_eq!(uploaded(&store), 5);
}

#[test]
fn what_no_program_needs_gives_way_before_what_one_needs() {
    let store = Fake::store(32 * ROW);
    let [a, b, c] = [1, 2, 3].map(|seed| plan(&[vec![tensor(seed, 10)]]));
    let mut needed = Program::compile(&store, &a, ROW, false).unwrap();
    needed.run_all();
    let mut dropped = Program::compile(&store, &b, ROW, false).unwrap();
    dropped.run_all();
    drop(dropped);
    assert_eq!(store.free_bytes().unwrap(), 31 * ROW, "weights count as free, activations do not");
    let epoch = store.lock().epoch;
    let mut third = Program::compile(&store, &c, 3 * ROW, false).unwrap();
    assert_eq!(third.weights.residency(), Residency::All);
    third.run_all();
    assert_eq!(uploaded(&store), 30);
    needed.run_all();
    assert_eq!((uploaded(&store), store.lock().epoch), (0, epoch), "nobody has to look for addresses again");
}

#[test]
fn segments_take_turns_with_those_of_other_programs() {
    let store = Fake::store(30 * ROW);
    let both = [1, 2].map(|seed| plan(&[10, 12].map(|rows| vec![tensor(10 * seed + rows, rows)])));
    let [mut a, mut b] = both.map(|plan| Program::compile(&store, &plan, 4 * ROW, false).unwrap());
    assert_eq!((a.weights.residency(), b.weights.residency()), (Residency::All, Residency::Turns));
    for _ in 0..3 {
        a.run_all();
        assert_eq!(uploaded(&store), 22);
        b.run_all();
        assert_eq!(uploaded(&store), 22);
    }
    // A third one would leave the others no room for their segments.
    let small = plan(&[vec![tensor(5, 1)]]);
    let Err(error) = Program::compile(&store, &small, 11 * ROW, false) else { panic!("it does not fit") };
    assert!(error.exit_code() == 4 && error.to_string().contains(&format!("{} bytes", 23 * ROW)), "{error}");
    assert!(Program::compile(&store, &small, 10 * ROW, false).is_ok());
    b.run_all();
}

#[test]
fn a_chunk_of_which_only_a_part_is_needed_gives_way_too() {
    let store = Fake::store(12 * ROW);
    let [a, b, c] = [1, 2, 3].map(|seed| tensor(seed, 5));
    // One chunk of two tensors, of which the second plan needs one.
    let mut first = Program::compile(&store, &plan(&[vec![a.clone(), b]]), ROW, false).unwrap();
    first.run_all();
    drop(first);
    let mut second = Program::compile(&store, &plan(&[vec![a, c]]), ROW, false).unwrap();
    second.run_all();
    assert_eq!(store.memory.taken.load(Relaxed), 11 * ROW);
}

#[test]
fn memory_that_is_refused_makes_weights_give_way() {
    let store = Fake::store(40 * ROW);
    let mut first = Program::compile(&store, &plan(&[vec![tensor(1, 10)], vec![tensor(2, 10)]]), ROW, false).unwrap();
    first.run_all();
    store.memory.hidden.store(15 * ROW, Relaxed);
    let mut second = Program::compile(&store, &plan(&[vec![tensor(3, 10)]]), ROW, false).unwrap();
    second.run_all();
    first.run_all();
    assert!(store.memory.taken.load(Relaxed) <= 25 * ROW);
}

#[test]
fn weights_that_nobody_can_ask_for_again_are_dropped() {
    let store = Fake::store(u64::MAX);
    for seed in 0..5 {
        Program::compile(&store, &plan(&[vec![tensor(seed, 4)]]), ROW, false).unwrap().run_all();
    }
    let next = Program::compile(&store, &plan(&[]), ROW, false).unwrap();
    assert_eq!(store.memory.taken.load(Relaxed), ROW);
    drop(next);
    assert!(store.lock().is_empty());
}

#[test]
fn uploads_ahead_are_of_the_programs_own_weights_in_its_order() {
    let store = Fake::store(u64::MAX);
    let [a, b, c] = [1, 2, 3].map(|seed| tensor(seed, 3));
    let other = Program::compile(&store, &plan(&[vec![c.clone()], vec![a.clone()]]), ROW, false).unwrap();
    let mut program = Program::compile(&store, &plan(&[vec![a], vec![b]]), ROW, false).unwrap();
    program.run(0).unwrap();
    assert_eq!(uploaded(&store), 3);
    // A tensor is a window.
    assert!(program.weights.upload_ahead().unwrap() && !program.weights.upload_ahead().unwrap());
    assert!(other.weights.upload_ahead().unwrap() && !other.weights.upload_ahead().unwrap());
    uploaded(&store);
    program.run(1).unwrap();
    assert_eq!(uploaded(&store), 0);
}
