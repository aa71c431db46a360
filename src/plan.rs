//! The plan: everything that one kind of request needs, as a flat list of nodes.
//!
//! Networks record nodes into a [`Recorder`]. [`Recorder::finish`] gives every slot its place in one arena and
//! returns the [`Plan`], which does not change any more. Backends compile it and know nothing of networks.

mod arena;
mod bytes;

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::ops::{Cost, Element, Op};
use crate::shape::Shape;
use crate::tensor::{Dtype, Identity, Part, Weight};

/// A value in a plan: where it is stored, and the shape it is seen as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    id: usize,
    /// The extent.
    pub shape: Shape,
}

impl Slot {
    /// The same values seen as another shape; nothing moves, since every tensor is contiguous.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(self, shape: Shape) -> Slot {
        assert_eq!(self.shape.elements(), shape.elements(), "{} seen as {shape}", self.shape);
        Slot { shape, ..self }
    }

    /// The first `images` images of this, which is where the others begin; nothing moves.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, images: usize) -> Slot {
        assert!(images <= self.shape.n, "{images} images of {}", self.shape);
        Slot { shape: Shape { n: images, ..self.shape }, ..self }
    }

    /// Index into [`Plan::slots`].
    pub fn id(self) -> usize {
        self.id
    }
}

/// An operand of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An activation.
    Slot(Slot),
    /// A learned tensor: index into [`Plan::weights`], and its shape.
    Weight(usize, Shape),
}

impl Source {
    /// The operand's extent.
    pub fn shape(&self) -> Shape {
        match self {
            Source::Slot(slot) => slot.shape,
            Source::Weight(_, shape) => *shape,
        }
    }
}

/// One entry of a plan: an op, what it reads and where it writes.
#[derive(Debug, Clone)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// Operands in the op's order; `None` where an optional one is absent.
    pub inputs: Vec<Option<Source>>,
    /// Where the result goes. Equal to an operand where a state is updated.
    pub output: Slot,
    /// The operand that lies where the result goes, if one does.
    pub aliased: Option<usize>,
    /// Layer of the network, e.g. `down_blocks.1.4.channelwise.0`.
    pub at: String,
}

impl Node {
    /// Shapes of the operands.
    pub fn shapes(&self) -> Vec<Option<Shape>> {
        self.inputs.iter().map(|i| i.as_ref().map(Source::shape)).collect()
    }
}

/// Storage of a slot.
#[derive(Debug, Clone)]
pub struct Storage {
    /// What its elements are; all have room for 4 bytes.
    pub element: Element,
    /// Number of elements.
    pub len: usize,
    /// Offset of the first element in the arena, in elements.
    pub offset: usize,
}

impl Storage {
    /// Elements of the arena that the slot occupies.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// Consecutive nodes that are run with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// E.g. `step_c`.
    pub name: &'static str,
    /// Its nodes.
    pub nodes: Range<usize>,
    /// How often it runs for one batch of images: the steps of its loop, or 1 outside of loops.
    pub repeats: usize,
    /// Index of its [span](Plan::spans).
    pub span: usize,
}

/// Refers to a segment of the plan that it was recorded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentId(usize);

/// A finished plan.
#[derive(Debug)]
pub struct Plan {
    /// What is done, in order.
    pub nodes: Vec<Node>,
    /// Storage of each slot.
    pub slots: Vec<Storage>,
    /// Learned tensors that nodes refer to.
    pub weights: Vec<Weight>,
    /// For each weight, whether only GEMMs read it, as an operand that may be rounded to bf16.
    pub gemm_only: Vec<bool>,
    /// The segments, in the order in which they first run.
    pub segments: Vec<Segment>,
    /// The nodes of each loop, and of each segment that is in no loop. Spans run one after the other, never
    /// alternately; the segments of one loop run in any order, as often as the caller likes, or not at all.
    pub spans: Vec<Range<usize>>,
    /// Size of the arena, in 4-byte elements.
    pub arena_len: usize,
}

impl Plan {
    /// Nodes of a segment.
    pub fn nodes_of(&self, segment: SegmentId) -> Range<usize> {
        self.segments[segment.0].nodes.clone()
    }

    /// Work that a node does. On a device that `stores_bf16`, GEMM inputs have two bytes per element.
    pub fn cost(&self, node: &Node, stores_bf16: bool) -> Cost {
        let out = node.output.shape;
        let element =
            |slot: &Slot| if stores_bf16 && self.slots[slot.id].element == Element::GemmInput { 2 } else { 4 };
        let read = |(i, source): (usize, &Option<Source>)| match source {
            None => 0,
            Some(Source::Slot(slot)) => element(slot) * node.op.reads(i, slot.shape, out),
            Some(Source::Weight(w, shape)) => {
                let stored: usize = self.weights[*w].parts().iter().map(Part::stored_bytes).sum();
                stored / shape.elements().max(1) * node.op.reads(i, *shape, out)
            }
        };
        let bytes = node.inputs.iter().enumerate().map(read).sum::<usize>() + element(&node.output) * out.elements();
        Cost { flops: node.op.flops(&node.shapes(), out), bytes: bytes as u64 }
    }

    /// The segment that node `i` belongs to.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn segment_of(&self, i: usize) -> &Segment {
        self.segments.iter().find(|segment| segment.nodes.contains(&i)).expect("every node belongs to a segment")
    }

    /// Splits a range of nodes at the borders of segments: the index of each segment, and its share of the range.
    pub fn by_segment(&self, nodes: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let part = move |(p, segment): (usize, &Segment)| {
            let range = nodes.start.max(segment.nodes.start)..nodes.end.min(segment.nodes.end);
            (!range.is_empty()).then_some((p, range))
        };
        self.segments.iter().enumerate().filter_map(part)
    }

    /// Bytes of activations that the plan needs.
    pub fn arena_bytes(&self) -> u64 {
        4 * self.arena_len as u64
    }

    /// The type that each weight has on a device that copies it: that of the file, or f32 if its shards differ there or
    /// are int8. On a device that `stores_bf16`, weights that only GEMMs read are bf16.
    pub fn weight_dtypes(&self, stores_bf16: bool) -> Vec<Dtype> {
        let dtype = |(weight, factor): (&Weight, &bool)| {
            let first = weight.parts()[0].dtype();
            match () {
                () if stores_bf16 && *factor => Dtype::Bf16,
                () if first != Dtype::I8 && weight.parts().iter().all(|part| part.dtype() == first) => first,
                () => Dtype::F32,
            }
        };
        self.weights.iter().zip(&self.gemm_only).map(dtype).collect()
    }
}

/// How a slot came to be, and how long the host may look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Written by a node, dead after its last reader.
    Temporary,
    /// Written by a node, readable by the host until the last span that uses it ends.
    Kept,
    /// Written by the host, before the first span that reads it.
    Input,
}

#[derive(Debug)]
struct Recorded {
    element: Element,
    len: usize,
    kind: Kind,
}

/// A plan being recorded.
#[derive(Debug, Default)]
pub struct Recorder {
    nodes: Vec<Node>,
    slots: Vec<Recorded>,
    weights: Vec<Weight>,
    known: HashMap<Identity, usize>,
    segments: Vec<Segment>,
    spans: Vec<Range<usize>>,
    /// Steps of the loop that is being recorded.
    steps: Option<usize>,
    /// Whether nodes may be added to the last segment: not where a loop begins or ends.
    is_open: bool,
}

impl Recorder {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a segment: nodes recorded from now on belong to it. It may run several times in a row.
    pub fn segment(&mut self, name: &'static str) -> SegmentId {
        let here = self.nodes.len()..self.nodes.len();
        if self.steps.is_none() {
            self.spans.push(here.clone());
        }
        let span = self.spans.len() - 1;
        self.segments.push(Segment { name, nodes: here, repeats: self.steps.unwrap_or(1), span });
        self.is_open = true;
        SegmentId(self.segments.len() - 1)
    }

    /// Records a loop of `steps` steps: every segment begun by `body` belongs to it.
    ///
    /// Each step may run any of these segments, in any order. So a slot that one of them writes and another
    /// one, the host, or a later step reads keeps its memory for the whole loop, as do inputs and all that is
    /// read there and was made before. Temporary slots of one segment still share memory with other segments.
    ///
    /// # Errors
    /// Those of `body`.
    ///
    /// # Panics
    /// If loops are nested, or if a node is recorded in `body`, or after the loop, before a segment is begun there.
    pub fn repeat<T>(&mut self, steps: usize, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        assert!(self.steps.is_none(), "loops are not nested");
        let here = self.nodes.len();
        self.spans.push(here..here);
        (self.steps, self.is_open) = (Some(steps), false);
        let result = body(self);
        (self.steps, self.is_open) = (None, false);
        result
    }

    /// A slot that the host writes, after the span before that of its first reader has run and before that
    /// span does. In a loop the host may write it again between steps.
    pub fn input(&mut self, shape: Shape, element: Element) -> Slot {
        self.slot(shape, element, Kind::Input)
    }

    /// Lets the host read `slot` after the last segment that uses it, until that segment's span ends.
    pub fn keep(&mut self, slot: Slot) {
        if self.slots[slot.id].kind == Kind::Temporary {
            self.slots[slot.id].kind = Kind::Kept;
        }
    }

    /// Makes a learned tensor an operand.
    pub fn weight(&mut self, weight: Weight) -> Source {
        let shape = weight.shape();
        // Blocks that are repeated share their weights.
        let index = *self.known.entry(weight.identity()).or_insert_with(|| {
            self.weights.push(weight);
            self.weights.len() - 1
        });
        Source::Weight(index, shape)
    }

    /// Records `op`; the result is a new slot.
    pub fn node(&mut self, at: &str, op: impl Into<Op>, inputs: &[Option<Source>]) -> Result<Slot> {
        let op = op.into();
        let shape = check(at, &op, inputs)?;
        let output = self.slot(shape, op.element(), Kind::Temporary);
        self.push(Node { op, inputs: inputs.to_vec(), output, aliased: None, at: at.into() });
        Ok(output)
    }

    /// Records `op` as a node that updates `state`, which the host or a node before has initialised, in place.
    ///
    /// # Panics
    /// If the op does not work in place on an operand that is `state`.
    pub fn update(&mut self, at: &str, op: impl Into<Op>, inputs: &[Option<Source>], state: Slot) -> Result<()> {
        let op = op.into();
        let shape = check(at, &op, inputs)?;
        let aliased = op.in_place();
        assert!(
            shape == state.shape && aliased.is_some_and(|i| inputs[i] == Some(Source::Slot(state))),
            "{at}: {} updates its state in place",
            op.name()
        );
        self.push(Node { op, inputs: inputs.to_vec(), output: state, aliased, at: at.into() });
        Ok(())
    }

    /// Places every slot in the arena.
    pub fn finish(self) -> Plan {
        arena::place(self)
    }

    fn slot(&mut self, shape: Shape, element: Element, kind: Kind) -> Slot {
        self.slots.push(Recorded { element, len: shape.elements(), kind });
        Slot { id: self.slots.len() - 1, shape }
    }

    /// Adds a node to the current segment. A plan that begins no segment has a single one.
    fn push(&mut self, node: Node) {
        if self.segments.is_empty() && self.steps.is_none() {
            self.segment("all");
        }
        assert!(self.is_open, "{}: a segment is begun in a loop, and after it", node.at);
        self.nodes.push(node);
        let segment = self.segments.last_mut().expect("a segment was begun");
        segment.nodes.end = self.nodes.len();
        self.spans[segment.span].end = self.nodes.len();
    }
}

fn check(at: &str, op: &Op, inputs: &[Option<Source>]) -> Result<Shape> {
    let shapes: Vec<_> = inputs.iter().map(|i| i.as_ref().map(Source::shape)).collect();
    op.shape(&shapes).map_err(|expected| {
        let found: Vec<_> = shapes.iter().map(|s| s.map_or("nothing".into(), |s| s.to_string())).collect();
        Error::Shape { at: at.into(), op: op.name(), expected, found: found.join(", ") }
    })
}
